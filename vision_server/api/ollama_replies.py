"""Answers, models and errors in the shapes that Ollama's clients read. No queue, no request."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from ..errors import VisionError
from ..footprint import Footprint, footprint
from ..jobs import Outcome, Status
from ..served import Served
from .replies import total_timings

LINES = "application/x-ndjson"
CAPABILITIES = ("completion", "vision")
LATEST = "latest"
_FAMILY = "florence2"
_NS_PER_MS = 1_000_000
_FOR_EVER = timedelta(days=106_751)  # what Ollama says: the longest time its language can hold, 292 years


@dataclass(frozen=True)
class Answer:
    """What all pieces of one answer have in common. `model` is as it was asked for; a chat has messages in it."""

    model: str
    is_chat: bool
    began_s: float = field(default_factory=time.monotonic)

    @property
    def ping(self) -> bytes:
        """A piece without text: there are no comments between lines of JSON."""
        return self.piece("")

    def piece(self, text: str) -> bytes:
        return _line({**self._said(text), "done": False})

    def end(self, outcomes: Sequence[Outcome]) -> bytes:
        return _line(self.whole("", outcomes))

    def whole(self, text: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """With what it took, in nanoseconds and tokens; reading the picture counts as reading the prompt."""
        ns = {stage: int(ms * _NS_PER_MS) for stage, ms in total_timings(outcomes).items()}
        length = any(outcome.finish_reason == "length" for outcome in outcomes)
        return {
            **self._said(text),
            **_done("length" if length else "stop"),
            "total_duration": int((time.monotonic() - self.began_s) * 1e9),
            "load_duration": ns["load"],
            "prompt_eval_count": sum(outcome.prompt_tokens for outcome in outcomes),
            "prompt_eval_duration": ns["decode"] + ns["encode"],
            "eval_count": sum(outcome.new_tokens for outcome in outcomes),
            "eval_duration": ns["generate"],
        }

    def brief(self, reason: str) -> dict[str, Any]:
        """To one who only wanted the model loaded, or unloaded: `reason` is "load" or "unload"."""
        return {**self._said(""), **_done(reason)}

    def brief_end(self, reason: str) -> bytes:
        return _line(self.brief(reason))

    def _said(self, text: str) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"response": text}
        return {"model": self.model, "created_at": _rfc3339(_now()), **said}


def _done(reason: str) -> dict[str, Any]:
    return {"done": True, "done_reason": reason}


def tagged(name: str) -> str:
    """With a tag, as Ollama lists models; some clients add the tag to whatever has none and look for that."""
    return name if ":" in name else f"{name}:{LATEST}"


def listed(model: Served, started_unix_s: int) -> dict[str, Any]:
    """One line of /api/tags. What the files do not tell is as old as the server."""
    files = footprint(model.checkpoint)
    return {
        **_named(model, files),
        "modified_at": _modified_at(files, started_unix_s),
        "size": files.size_bytes,
        "capabilities": CAPABILITIES,
    }


def running(model: Served, now: Status) -> dict[str, Any]:
    """One line of /api/ps, for the model that is loaded; what it takes is on the device, or else in main memory."""
    files = footprint(model.checkpoint)
    device_bytes = now.worker_device_bytes or 0
    return {
        **_named(model, files),
        "size": device_bytes or now.worker_rss_bytes or 0,
        "size_vram": device_bytes,
        "expires_at": _rfc3339(_now() + _time_left(model, now)),
        "context_length": files.positions or 0,
    }


def shown(model: Served, started_unix_s: int) -> dict[str, Any]:
    """The answer of /api/show."""
    files, checkpoint = footprint(model.checkpoint), model.checkpoint
    info = {
        "general.architecture": _FAMILY,
        "general.basename": model.name,
        "general.parameter_count": files.parameters,
        f"{_FAMILY}.context_length": files.positions,
        f"{_FAMILY}.prompts": model.prompts,
    }
    return {
        "modelfile": f"FROM {checkpoint.repository or model.name}\nTEMPLATE {{{{ .Prompt }}}}\n",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _details(files),
        "model_info": {name: value for name, value in info.items() if value is not None},
        "capabilities": CAPABILITIES,
        "modified_at": _modified_at(files, started_unix_s),
    }


def error_line(error: VisionError) -> bytes:
    return _line({"error": str(error)})


def _named(model: Served, files: Footprint) -> dict[str, Any]:
    name = tagged(model.name)
    return {"name": name, "model": name, "digest": files.digest, "details": _details(files)}


def _details(files: Footprint) -> dict[str, Any]:
    count = files.parameters
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": _FAMILY,
        "families": [_FAMILY],
        "parameter_size": "" if count is None else f"{count / 1e9:.2f}B" if count >= 1e8 else f"{count / 1e6:.1f}M",
        "quantization_level": files.dtype or "",
    }


def _time_left(model: Served, now: Status) -> timedelta:
    """Until it is unloaded; while it is in use, as if it were left alone now."""
    left_s = now.idle_unload_in_s
    if left_s is None and (now.in_flight or now.queue_depth):
        left_s = model.idle_timeout_s
    return _FOR_EVER if left_s is None or left_s < 0 else timedelta(seconds=left_s)


def _modified_at(files: Footprint, started_unix_s: int) -> str:
    return _rfc3339(datetime.fromtimestamp(files.modified_s or started_unix_s, timezone.utc))


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _rfc3339(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _line(value: dict[str, Any]) -> bytes:
    return f"{json.dumps(value, ensure_ascii=False)}\n".encode()
