"""Florence-2 in PyTorch. Knows nothing of HTTP, jobs, processes or tasks."""

from vision_server.engine.florence import Florence, Generation, Options
from vision_server.engine.parts import Parts

__all__ = ["Florence", "Generation", "Options", "Parts"]
