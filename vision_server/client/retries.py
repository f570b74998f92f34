"""When a refused or broken call is made again, decided: plain, nothing is sent and nobody sleeps here."""

from __future__ import annotations

import random

MIN_PAUSE_S = 0.5
MAX_PAUSE_S = 120.0  # as long as the server ever asks for
MOST_BREAKS = 5
_SPREAD = 0.25


class Retries:
    """Those of one call, which may take `patience_s` of pauses in all.

    The server's Retry-After is obeyed; without one a pause is twice as long as the last, from half a second on. Each is
    drawn out by up to a quarter, so that those who were refused together do not come back together. A connection that
    breaks may be this request's fault, so it is not tried for as long as one that is refused in good order.
    """

    def __init__(self, patience_s: float) -> None:
        self._left_s = patience_s
        self._usual_s = MIN_PAUSE_S
        self._breaks = 0

    def pause_s(self, retry_after_s: float | None, *, broken: bool = False) -> float | None:
        """How long to wait before the next try; None when there is to be none."""
        self._breaks += broken
        if broken and self._breaks > MOST_BREAKS:
            return None
        least_s = self._usual_s if retry_after_s is None else retry_after_s
        least_s = min(max(least_s, MIN_PAUSE_S), MAX_PAUSE_S)
        if least_s > self._left_s:
            return None
        if retry_after_s is None:
            self._usual_s *= 2
        pause_s = min(least_s * random.uniform(1, 1 + _SPREAD), self._left_s)
        self._left_s -= pause_s
        return pause_s
