"""Trains the embedded checkpoint on drawn scenes: `python -m vision_server.training.train --help`.

First the vision tower alone learns what lies in each cell, then everything together. The learning rate warms up,
stays, and falls to nothing over the last `--decay` steps; a run that is stopped resumes from its last checkpoint, and
giving it fewer `--steps` brings the end forward.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vision_server.engine.network import Network
from vision_server.engine.preprocess import TOKENIZER_FILE
from vision_server.engine.weights import load_network, save_network
from vision_server.training.batches import Batch, SceneBatches, stream
from vision_server.training.demo_config import GRID, demo_config, write_description
from vision_server.training.heads import CellHeads
from vision_server.training.losses import AnswerLoss, initialise
from vision_server.training.vocabulary import build_tokenizer

logger = logging.getLogger(__name__)

CELL_WEIGHT = 0.3  # of the cells' losses once the answers are learned too
WEIGHTS = {
    "words": 1.0,
    "places": 1.0,
    "letter": 1.0,
    "spelling": 1.0,
    "words_of_cells": 1.0,
}  # reading is what takes longest


class Float32Attention(TorchFunctionMode):
    """Attention in float32 under autocast: on a CPU its backward pass in bfloat16 is many times slower."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        dtype = args[0].dtype
        with torch.autocast("cpu", enabled=False):
            wide = [x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x for x in args]
            return func(*wide, **(kwargs or {})).to(dtype)


class Trainer:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        self.device = torch.device(args.device)
        # a run that goes on keeps its tokenizer: other truths would have made another one
        self.checkpoint: Path = args.run / "last.pt"
        begun: Path | None = args.run / "model" if self.checkpoint.exists() else args.start
        self.tokenizer: Tokenizer = (
            build_tokenizer() if begun is None else Tokenizer.from_file(str(begun / TOKENIZER_FILE))
        )
        self.config = demo_config(self.tokenizer)
        first_location = self.tokenizer.get_vocab()["<loc_0>"]
        self.network = Network(self.config)
        initialise(self.network, first_location)
        if begun is not None:
            weights = load_network(begun, self.config, torch.device("cpu"), torch.float32)
            self.network.load_state_dict(weights.state_dict())
        self.network.to(self.device)
        self.heads = CellHeads(self.config.vision.embed_dim[-1], self.config.text.d_model, self.tokenizer).to(
            self.device
        )
        self.answers = AnswerLoss(first_location).to(self.device)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=args.lr, betas=(0.9, 0.98), fused=True)
        self.step = 0
        if self.checkpoint.exists():
            self._resume()

    def _groups(self) -> list[dict[str, Any]]:
        parameters = [*self.network.parameters(), *self.heads.parameters()]
        return [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.02},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        logger.info("resumed at step %d", self.step)

    def save(self) -> None:
        """Write the checkpoint whole or not at all, and beside it the model as it would be shipped."""
        self.args.run.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)
        self.export(self.args.run / "model")

    def export(self, directory: Path) -> None:
        write_description(directory, self.config, self.tokenizer)
        save_network(self.network, directory, torch.float16)

    def rate(self) -> float:
        args = self.args
        warm = min(1.0, (self.step + 1) / args.warmup)
        left = min(1.0, (args.steps - self.step) / max(1, args.decay))
        return float(args.lr * warm * max(0.0, left))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=not self.args.float32):
            seen = self.network.vision_tower(batch.pixels)
            projected = self.network.projector(seen)
            losses: dict[str, Tensor] = self.heads(seen, projected, self.network.text.shared.weight, batch)
            if self.step >= self.args.cells_only:
                losses |= self.answers(self.network, projected, batch)
        return losses

    def learn(self, batch: Batch) -> dict[str, float]:
        batch = Batch(**{name: value.to(self.device) for name, value in vars(batch).items()})
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        with Float32Attention() if self.device.type == "cpu" else nullcontext():
            losses = self.losses(batch)
            cell = 1.0 if self.step < self.args.cells_only else CELL_WEIGHT
            total = torch.stack([WEIGHTS.get(name, cell) * loss for name, loss in losses.items()]).sum()
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def batches(self) -> Iterator[Batch]:
        args = self.args
        seed = args.seed + self.step  # a resumed run goes on with other scenes
        preprocess = self.config.preprocess
        return stream(SceneBatches(self.tokenizer, preprocess, GRID, args.pictures, args.prompts, seed))

    def run(self) -> None:
        args = self.args
        mean: dict[str, float] = {}
        began_s = time.perf_counter()
        for batch in self.batches():
            if self.step >= args.steps:
                break
            for name, value in self.learn(batch).items():
                mean[name] = 0.95 * mean.get(name, value) + 0.05 * value
            if self.step % args.log_every == 0:
                each_s = (time.perf_counter() - began_s) / args.log_every
                shown = " ".join(f"{name} {value:.3f}" for name, value in mean.items())
                logger.info("step %d  %s  %.2f s/step", self.step, shown, each_s)
                began_s = time.perf_counter()
            if self.step % args.save_every == 0:
                self.save()
        self.save()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded checkpoint on drawn scenes.")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of the run: checkpoint and model")
    parser.add_argument("--start", type=Path, help="a model to start from, e.g. the embedded one, when the run is new")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--decay", type=int, default=1200, help="steps at the end over which the rate falls to zero")
    parser.add_argument("--cells-only", type=int, default=500, help="steps at the start that teach the tower alone")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=24, help="pictures a step")
    parser.add_argument(
        "--prompts", type=int, default=3, help="prompts a step, chosen by chance, asked of each picture"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=200)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Trainer(args).run()


if __name__ == "__main__":
    main()
