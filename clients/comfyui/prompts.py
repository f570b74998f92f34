"""The prompts that the nodes offer: the server's, or the stock ones while it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .server import Server, Stopped, VisionServerError

_WAIT_S = 1.0  # ComfyUI stands still while it asks for the list, so a server that is slow to answer is not waited for
_KEPT_S = 3.0  # a page that loads asks several times


@dataclass(frozen=True)
class Prompt:
    """`places` says whether its answer has places in the picture; otherwise it is a text."""

    token: str
    places: bool


STOCK = (
    Prompt("<CAPTION>", False),
    Prompt("<DETAILED_CAPTION>", False),
    Prompt("<MORE_DETAILED_CAPTION>", False),
    Prompt("<OCR>", False),
    Prompt("<OCR_WITH_REGION>", True),
    Prompt("<OD>", True),
    Prompt("<DENSE_REGION_CAPTION>", True),
    Prompt("<REGION_PROPOSAL>", True),
    Prompt("<CAPTION_TO_PHRASE_GROUNDING>", True),
    Prompt("<REFERRING_EXPRESSION_SEGMENTATION>", True),
    Prompt("<REGION_TO_SEGMENTATION>", True),
    Prompt("<OPEN_VOCABULARY_DETECTION>", True),
    Prompt("<REGION_TO_CATEGORY>", False),
    Prompt("<REGION_TO_DESCRIPTION>", False),
    Prompt("<REGION_TO_OCR>", False),
)


class PromptList:
    """What `ask` answered last; asked again when somebody looks and `_KEPT_S` have passed.

    An answer that takes longer than `_WAIT_S` is shown to the next who looks. Until there is one, STOCK is.
    """

    def __init__(self, ask: Callable[[], list[Prompt]], clock_s: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock_s = ask, clock_s
        self._lock = threading.Lock()
        self._prompts: list[Prompt] = list(STOCK)
        self._asking: threading.Thread | None = None
        self._asked_s: float | None = None

    def tokens(self, places: bool) -> list[str]:
        """Those whose answers have places, or the others, in the server's order; never empty."""
        with self._lock:
            due = self._asked_s is None or self._clock_s() - self._asked_s >= _KEPT_S
            if self._asking is None and due:
                self._asking = threading.Thread(target=self._refresh, name="vision-server-prompts", daemon=True)
                self._asking.start()
            asking = self._asking if due else None
        if asking is not None:
            asking.join(_WAIT_S)
        with self._lock:
            if asking is not None:
                self._asked_s = self._clock_s()
            listed = [prompt.token for prompt in self._prompts if prompt.places == places]
        return listed or [prompt.token for prompt in STOCK if prompt.places == places]

    def _refresh(self) -> None:
        try:
            prompts = self._ask()
        except (VisionServerError, Stopped):
            prompts = []
        with self._lock:
            self._prompts = prompts or self._prompts
            self._asking = None


def of_the_usual_server() -> list[Prompt]:
    """What the server that the environment names advises; all it takes of a kind of which it advises none.

    Raises VisionServerError.
    """
    server = Server(answer_timeout_s=10 * _WAIT_S)
    advised, every = server.call("/prompts"), server.call("/prompts?all=1")
    try:
        found = [(Prompt(str(row["token"]), row["answer"] != "text"), row["token"] in advised) for row in every]
    except (TypeError, KeyError):
        found = []
    if not found:
        raise server.foreign()
    kinds = {prompt.places for prompt, is_advised in found if is_advised}
    return [prompt for prompt, is_advised in found if is_advised or prompt.places not in kinds]


PROMPTS = PromptList(of_the_usual_server)
