"""The soak's clients: good requests, wrong ones, and clients that leave; and what became of each. Not a benchmark."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from tests.bench.soak_plan import FORMS, Asked, Sent, plain, refused

RETRYABLE = (429, 503)
PATIENCE_S = 300.0  # from the first try of a request to its answer; beyond, it is lost
_MAX_RETRY_AFTER_S = 120
_KINDS = {"good": 70, "same id": 3, "wrong": 13, "cancelled": 9, "half head": 1, "broken body": 3, "slow body": 1}


@dataclass
class Tally:
    """What was sent and answered. `lost` are good requests without an answer, `wrong` those with another one than on
    a quiet day, `faults` whatever else must never be; each is told in words."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and how it ended
    tries: Counter[int] = field(default_factory=Counter)  # HTTP answers by status
    sent_ids: Counter[str] = field(default_factory=Counter)  # X-Request-Id of every try
    answered_ids: Counter[str] = field(default_factory=Counter)  # of every POST with an answer
    blamed_ids: list[str] = field(default_factory=list)  # answered with worker_crash
    latencies_s: list[float] = field(default_factory=list)  # from the first try to the right answer
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reply:
    status: int
    retry_after: str | None
    body: Any
    id: str


class Clients:
    """Many clients of one daemon; each goes on with one request after the other until the time is over.

    `known` has every question with its quiet answer. While `pause` is clear nobody begins a request.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, known: Sequence[tuple[Asked, Any]], seed: int) -> None:
        self.tally = Tally()
        self.pause = asyncio.Event()
        self.pause.set()
        self._session = session
        self._url = url
        self._known = known
        self._seed = seed
        self._refused = refused(known[0][0], random.Random(f"refused {seed}"))
        self._numbers = itertools.count(1)

    async def run(self, client: int, until_s: float) -> None:
        """One client; `until_s` is in seconds of time.monotonic."""
        rng = random.Random(f"client {client} of {self._seed}")
        while time.monotonic() < until_s:
            await self.pause.wait()
            kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
            await self._act(kind, rng)

    async def _act(self, kind: str, rng: random.Random) -> None:
        asked, answer = rng.choice(self._known)
        sent = rng.choice(FORMS)(asked)
        if kind == "good":
            await self.good(kind, sent, answer)
        elif kind == "same id":
            name = f"{self._seed}-same-{next(self._numbers)}"
            other, other_answer = rng.choice(self._known)
            await asyncio.gather(self.good(kind, sent, answer, name), self.good(kind, plain(other), other_answer, name))
        elif kind == "wrong":
            await self._wrong(*rng.choice(list(self._refused.items())))
        elif kind == "cancelled":
            await self._cancelled(sent, answer, rng.choice((0.01, 0.1, 1.0)) * rng.random())
        else:
            await self._abandoned(kind, plain(asked), rng)

    async def good(self, kind: str, sent: Sent, answer: Any, same_id: str | None = None) -> None:
        """Ask until there is an answer, which must be the right one."""
        began_s = time.monotonic()
        name = same_id or f"{self._seed}-{next(self._numbers)}"
        try:
            reply = await asyncio.wait_for(self._until_answered(sent, name, varied=same_id is None), PATIENCE_S)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            self._note(kind, type(error).__name__)
            self.tally.lost.append(f"{kind} {name}: {error!r}")
            return
        if self._judged(kind, reply, answer):
            self.tally.latencies_s.append(time.monotonic() - began_s)

    def _judged(self, kind: str, reply: Reply, answer: Any) -> bool:
        """Whether a reply that is no refusal is the right answer; it is noted either way."""
        code = reply.body.get("code") if isinstance(reply.body, dict) else None
        self._note(kind, f"{reply.status} {code}" if code else str(reply.status))
        if reply.status == 500 and code == "worker_crash":
            self.tally.blamed_ids.append(reply.id)
        elif reply.status != 200:
            self.tally.lost.append(f"{kind} {reply.id}: {reply.status} {reply.body}")
        elif reply.body != {"result": answer}:
            self.tally.wrong.append(f"{kind} {reply.id}: {reply.body}, and not {answer!r}")
        else:
            return True
        return False

    async def _wrong(self, what: str, expected: tuple[Sent, set[int]]) -> None:
        sent, statuses = expected
        name = f"{self._seed}-{next(self._numbers)}"
        try:
            reply = await asyncio.wait_for(self._until_answered(sent, name), PATIENCE_S)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            self._note("wrong", type(error).__name__)
            self.tally.faults.append(f"{what} {name}: {error!r}")
            return
        code = reply.body.get("code") if isinstance(reply.body, dict) else None
        self._note("wrong", f"{reply.status} {code}")
        if code == "worker_crash":
            self.tally.blamed_ids.append(reply.id)
        elif reply.status not in statuses or not code:
            self.tally.faults.append(f"{what} {reply.id}: {reply.status} {reply.body}")

    async def _cancelled(self, sent: Sent, answer: Any, after_s: float) -> None:
        """Leave while the request arrives, waits or runs, as chance has it. It may be answered before."""
        name = f"{self._seed}-{next(self._numbers)}"
        try:
            reply = await asyncio.wait_for(self._try(sent, name), after_s)
        except asyncio.TimeoutError:
            self._note("cancelled", "left")
        except aiohttp.ClientError as error:
            self._note("cancelled", type(error).__name__)
            self.tally.faults.append(f"cancelled {name}: {error!r}")
        else:
            if reply.status in RETRYABLE:
                self._note("cancelled", str(reply.status))
            else:
                self._judged("cancelled", reply, answer)

    async def _abandoned(self, kind: str, sent: Sent, rng: random.Random) -> None:
        """Send a part of a request and leave; as a "slow body" stay until the server has had enough."""
        address, body, name = urlsplit(self._url), sent.body(), f"{self._seed}-{next(self._numbers)}"
        self.tally.sent_ids[name] += 1
        head = (
            f"POST {sent.path}?{urlencode(sent.params or {})} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"X-Request-Id: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        said = b""
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            with contextlib.suppress(ConnectionError):  # refused meanwhile
                part = rng.random()
                writer.write(
                    head[: int(len(head) * part)] if kind == "half head" else head + body[: int(len(body) * part)]
                )
                await writer.drain()
                if kind == "slow body":
                    said = await asyncio.wait_for(reader.read(1000), PATIENCE_S)
                else:
                    await asyncio.sleep(0.5 * rng.random())
        except asyncio.TimeoutError:
            self.tally.faults.append(f"{kind}: neither answered nor ended")
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        status = said[9:12].decode() if kind == "slow body" else "left"
        self._note(kind, status)
        if status not in ("left", "408", *map(str, RETRYABLE)):
            self.tally.faults.append(f"{kind}: {said!r}")

    async def _until_answered(self, sent: Sent, name: str, *, varied: bool = True) -> Reply:
        """Try again when told to, as late as told to. Each try has an id of its own, unless `varied` says no."""
        for number in itertools.count(1):
            reply = await self._try(sent, f"{name}-{number}" if varied else name)
            if reply.status not in RETRYABLE:
                return reply
            wait_s = int(reply.retry_after) if reply.retry_after and reply.retry_after.isdecimal() else 0
            if not 1 <= wait_s <= _MAX_RETRY_AFTER_S:
                self.tally.faults.append(f"{reply.id}: {reply.status} with Retry-After {reply.retry_after}")
                wait_s = 1
            await asyncio.sleep(wait_s)
        raise AssertionError("the count never ends")

    async def _try(self, sent: Sent, request_id: str) -> Reply:
        self.tally.sent_ids[request_id] += 1
        body = sent.body()
        async with self._session.request(
            sent.method,
            self._url + sent.path,
            params=sent.params,
            data=io.BytesIO(body) if isinstance(body, bytes) else body,
            headers={**(sent.headers or {}), "X-Request-Id": request_id},
        ) as response:
            answer = json.loads(await response.read())
            self.tally.tries[response.status] += 1
            self.tally.answered_ids[request_id] += sent.method == "POST"  # the log of usual days has no GET
            if response.headers.get("X-Request-Id") != request_id:
                self.tally.faults.append(f"{request_id} was answered as {response.headers.get('X-Request-Id')}")
            return Reply(response.status, response.headers.get("Retry-After"), answer, request_id)

    def _note(self, kind: str, end: str) -> None:
        self.tally.requests[kind, end] += 1
