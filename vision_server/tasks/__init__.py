"""What Florence-2 can be asked, the sentence each task becomes, and how its answers are read. Standard library only.

It knows nothing of models, pictures' bytes or HTTP; both processes use it.
"""

from .answers import answer
from .fields import parse_fields
from .registry import STOCK, TASKS, Task, find, literal, lookup, of_token
from .sentences import check_input, sentence
from .shapes import Kind, Shape, shapes
from .written import written

__all__ = [
    "STOCK",
    "TASKS",
    "Kind",
    "Shape",
    "Task",
    "answer",
    "check_input",
    "find",
    "literal",
    "lookup",
    "of_token",
    "parse_fields",
    "sentence",
    "shapes",
    "written",
]
