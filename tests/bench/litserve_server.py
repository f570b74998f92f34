"""transformers' Florence-2 behind LitServe with its dynamic batching, put together as LitServe's documentation advises.
Started by `litserve_row`; not a benchmark.

`python -m tests.bench.litserve_server DIRECTORY --port N --tokens N --threads N` listens on 127.0.0.1, with one worker
on the CPU. `POST /predict` takes {"image": base64, "prompt"} and answers {"result", "tokens", "batch"}: the text, how
many tokens it has, and how many requests were answered together. All its processes end when its standard input does.
"""
# LitServe compares the annotations of decode_request with its own classes, so they must not become strings here.

import argparse
import base64
import io
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import litserve  # type: ignore[import-untyped]
import psutil
from PIL import Image

MAX_BATCH = 8
BATCH_TIMEOUT_S = 2.0  # a full batch starts at once; so long, that requests sent at once are hardly ever cut in two


class Captions(litserve.LitAPI):  # type: ignore[misc]
    """Lives in the worker, but for its construction: torch and transformers are imported where they are used."""

    def __init__(self, directory: Path, tokens: int, threads: int) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S)
        self._directory, self._tokens, self._threads = directory, tokens, threads

    def setup(self, device: str) -> None:
        import torch
        from transformers import Florence2ForConditionalGeneration, Florence2Processor

        from tests.bench.contenders import generation_config

        torch.set_num_threads(self._threads)
        self._processor = Florence2Processor.from_pretrained(self._directory)
        model = Florence2ForConditionalGeneration.from_pretrained(
            self._directory, dtype=torch.float32, attn_implementation="sdpa"
        )
        self._model = model.eval().to(device)
        self._model.generation_config = generation_config(self._tokens)

    def decode_request(self, request: litserve.Request) -> tuple[Image.Image, str]:
        with Image.open(io.BytesIO(base64.b64decode(request["image"]))) as opened:
            return opened.convert("RGB"), request["prompt"]

    def batch(self, inputs: Sequence[tuple[Image.Image, str]]) -> Any:
        images, prompts = zip(*inputs, strict=True)
        return self._processor(images=list(images), text=list(prompts), padding=True, return_tensors="pt")

    def predict(self, x: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self._model.generate(**x)

    def unbatch(self, output: Any) -> list[dict[str, Any]]:
        texts = self._processor.batch_decode(output, skip_special_tokens=True)
        tokens = output.shape[1] - 1  # the first is the one that every answer starts from
        return [{"result": text.strip(), "tokens": tokens, "batch": len(texts)} for text in texts]

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def _end(*_signal: object) -> NoReturn:
    """Kills this process and all it started; LitServe's own way out leaves some of them."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


def _end_with_standard_input() -> None:
    """Once nobody holds the other end any more."""
    while os.read(0, 1):
        pass
    _end()


def main() -> None:
    parser = argparse.ArgumentParser(description="transformers' Florence-2 behind LitServe, on 127.0.0.1.")
    parser.add_argument("directory", type=Path)
    for name in ("--port", "--tokens", "--threads"):
        parser.add_argument(name, type=int, required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    api = Captions(args.directory, args.tokens, args.threads)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=args.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
