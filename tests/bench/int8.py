"""What 8-bit linear layers cost in accuracy: logits at the models' true size, and the embedded checkpoint's answers.

`python -m tests.bench.int8` writes results/int8.json. At true size, with random weights, the plain engine answers a
picture by greedy choice, and both precisions are then shown that answer (teacher forcing); the error is the difference
of their logits, relative to how much the plain ones vary over the vocabulary. The embedded checkpoint is asked for the
captions of 500 scenes that no training has seen. README.md says more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.bench.checkpoints import Size, published, questions, write_checkpoint
from tests.bench.machine import circumstances, write_result
from vision_server.engine import Florence
from vision_server.engine.config import DECODER_START
from vision_server.engine.preprocess import to_pixels
from vision_server.training.evaluate import evaluate
from vision_server.training.scenes import EVAL_SEEDS, scene

EMBEDDED = Path(__file__).parents[2] / "vision_server" / "models" / "demo"
CAPTIONS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>", "<OCR>")
SCENES = 500
PICTURES, TOKENS = 4, 40


def logits(florence: Florence, request: tuple[Any, str], answer_ids: Sequence[int]) -> Tensor:
    """(T, V) what the model thinks of each token after those before it."""
    image, prompt = request
    text = florence.network.text
    with torch.inference_mode():
        features = florence.network.look(to_pixels(image, florence.config.preprocess)[None])
        states = text.encode(features, torch.tensor([florence.tokenizer.encode(prompt)]))
        return text.decode(torch.tensor([[DECODER_START, *answer_ids[:-1]]]), states)[0]


def logit_errors(directory: Path, size: Size, pictures: int, tokens: int) -> dict[str, float]:
    """Of the int8 engine against the float32 one, over all tokens of the answers about that many pictures."""
    write_checkpoint(directory, size)
    asked = questions(size, 0, pictures)
    exact = Florence.load(directory, "cpu", "float32")
    answers = [exact.generate([one], num_beams=1, max_new_tokens=tokens)[0].token_ids for one in asked]
    true = torch.cat([logits(exact, one, ids) for one, ids in zip(asked, answers, strict=True)])
    del exact
    rough = Florence.load(directory, "cpu", "int8")
    found = torch.cat([logits(rough, one, ids) for one, ids in zip(asked, answers, strict=True)])
    error = (found - true) / true.std(dim=-1, keepdim=True)
    return {
        "tokens": len(true),
        "rms_error": float(f"{error.square().mean().sqrt():.3g}"),
        "largest_error": float(f"{error.abs().max():.3g}"),
        "same_first_choice": float(f"{(found.argmax(-1) == true.argmax(-1)).float().mean():.4g}"),
    }


def captions(scenes: int) -> dict[str, dict[str, float]]:
    """The share of exact texts by prompt, in float32 and in int8."""
    drawn = [scene(seed) for seed in EVAL_SEEDS[:scenes]]
    found = {
        dtype: evaluate(Florence.load(EMBEDDED, "cpu", dtype), drawn, prompts=CAPTIONS) for dtype in ("float32", "int8")
    }
    return {token: {dtype: figures[token]["exact"] for dtype, figures in found.items()} for token in CAPTIONS}


def main() -> None:
    argparse.ArgumentParser(description="The accuracy of 8-bit linear layers against float32.").parse_args()
    found: dict[str, Any] = {"exact_answers": {"scenes": SCENES, **captions(SCENES)}}
    for name in ("base", "large"):
        with tempfile.TemporaryDirectory() as folder:
            found[f"logits_{name}"] = logit_errors(Path(folder), published(name), PICTURES, TOKENS)
    about = circumstances("python -m tests.bench.int8", "torch")
    sys.stdout.write(f"{write_result('int8', {**about, **found})}\n")


if __name__ == "__main__":
    main()
