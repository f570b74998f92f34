"""How much may be here at once, how often one client may ask, and when somebody who is refused is to come back.

Plain decisions: no HTTP, no asyncio; the time is handed in, in monotonic seconds. What is refused has taken nothing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

from .errors import TooManyRequests

RETRY_AFTER_MAX_S = 120  # the OpenAI SDK does not retry at all when it is told to wait longer
MAX_BUCKETS = 10_000  # whoever comes from more addresses than this in a minute is not held by a limit per address
_RATE_WINDOW_S = 60.0
_MINUTE_S = 60.0
_ROUNDING_S = 1e-6


class Pace:
    """How fast requests were completed lately."""

    def __init__(self) -> None:
        self._completed_s: deque[float] = deque(maxlen=256)

    def note_completion(self, now: float) -> None:
        self._completed_s.append(now)

    def retry_after_s(self, waiting: int, now: float, unknown_s: float) -> int:
        """`waiting` requests over the completion rate of the last minute, 1 to 120 s; `unknown_s` without any rate."""
        recent = [at_s for at_s in self._completed_s if at_s > now - _RATE_WINDOW_S]
        wanted_s = waiting * max(now - recent[0], 1.0) / len(recent) if recent else unknown_s
        return max(1, min(RETRY_AFTER_MAX_S, ceil(wanted_s)))


class ByteBudget:
    """Bytes that bodies and pictures take. One that is alone may take more than there is, else nobody could send it."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0

    def take(self, wanted_bytes: int, instead_of_bytes: int = 0) -> bool:
        """Take `wanted_bytes` and give `instead_of_bytes` back; False, and nothing is changed, where it does not fit.

        To get smaller always fits.
        """
        others_bytes = self.used_bytes - instead_of_bytes
        grows = wanted_bytes > instead_of_bytes
        if grows and others_bytes and others_bytes + wanted_bytes > self.capacity_bytes:
            return False
        self.used_bytes = others_bytes + wanted_bytes
        return True


class ClientQuotas:
    """What one client may have here at once, and how often it may ask; 0 for no limit. A client is any text.

    The rate is a token bucket that holds the requests of a minute. A bucket is kept as the time when it will be full
    again, which is at most a minute after its last use, and forgotten then; MAX_BUCKETS bounds those of one minute.
    """

    def __init__(self, max_per_client: int, rate_limit_per_min: int) -> None:
        self._max_per_client = max_per_client
        self._rate_limit_per_min = rate_limit_per_min
        self._here: Counter[str] = Counter()
        self._full_at_s: OrderedDict[str, float] = OrderedDict()  # the one used last comes last

    def __len__(self) -> int:
        """How many clients something is remembered of."""
        return len(self._here.keys() | self._full_at_s.keys())

    @contextmanager
    def hold(self, client: str, now: float, busy_s: float) -> Iterator[None]:
        """While a request of this client is here. Raises TooManyRequests.

        `busy_s` is when to come back where the client's own requests are in the way: after one of them, as a guess.
        """
        if 0 < self._max_per_client <= self._here[client]:
            raise TooManyRequests(
                f"This client has {self._max_per_client} requests here already: wait for an answer.",
                retry_after_s=busy_s,
            )
        if self._rate_limit_per_min:
            self._take_token(client, now)
        self._here[client] += 1
        try:
            yield
        finally:
            self._here[client] -= 1
            if not self._here[client]:
                del self._here[client]

    def _take_token(self, client: str, now: float) -> None:
        buckets = self._full_at_s
        while buckets and (next(iter(buckets.values())) <= now or len(buckets) >= MAX_BUCKETS):
            buckets.popitem(last=False)
        full_at_s = max(buckets.get(client, now), now) + _MINUTE_S / self._rate_limit_per_min
        too_early_s = full_at_s - now - _MINUTE_S
        if too_early_s > _ROUNDING_S:
            raise TooManyRequests(
                f"This client asks more than {self._rate_limit_per_min} times a minute: ask less often.",
                retry_after_s=too_early_s,
            )
        buckets[client] = full_at_s
        buckets.move_to_end(client)
