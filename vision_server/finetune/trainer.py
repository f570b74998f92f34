"""The training: steps, what is written down on the way, validations, and going on where a run stopped.

One device or several: accelerate says how many there are and carries gradients between them. Each step's loss is the
mean over all labels of all its rows, on whichever device and in whichever part of the accumulation they stand.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor, nn

from vision_server.dataset.examples import Example
from vision_server.errors import BadSetting, VisionError
from vision_server.finetune import state
from vision_server.finetune.batches import Batch, Maker, Order, ahead
from vision_server.finetune.examples import fingerprint
from vision_server.finetune.history import History
from vision_server.finetune.options import Options
from vision_server.finetune.progress import Progress
from vision_server.finetune.teacher import Teacher

# An exact continuation needs these to be as they were; how long to go on may change.
_FREE = ("epochs", "max_steps", "workers", "patience", "save_every", "validate_every", "validation_answers")

Validate = Callable[[], dict[str, float]]  # what the model is worth now; it keeps the model if it is the best


class Stopped(Exception):
    """A person asked the run to end; all is saved."""


def plan(options: Options, examples: int, devices: int) -> Options:
    """The options with every 0 that means "as the data has it" filled in."""
    rows = options.batch * options.accumulate * devices
    per_epoch = max(1, math.ceil(examples / rows))
    steps = options.max_steps or max(1, math.ceil(options.epochs * examples / rows))
    return replace(
        options,
        max_steps=steps,
        rate=options.top_rate,
        warmup=options.warmup or max(1, steps // 20),
        validate_every=options.validate_every or per_epoch,
        save_every=options.save_every or per_epoch,
    )


def rate_at(step: int, options: Options) -> float:
    """The learning rate of a step, the first being 0: up in a line, down as half a cosine."""
    if step < options.warmup:
        return options.rate * (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.max_steps - options.warmup)
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return options.rate * (options.last_rate + (1 - options.last_rate) * share)


class Trainer:
    def __init__(
        self,
        teacher: Teacher,
        maker: Maker,
        examples: Sequence[Example],
        options: Options,
        accelerator: Accelerator,
        folder: Path,
    ) -> None:
        """`options` are planned. `folder` is where state, table and curves go."""
        self.options, self.folder, self.history = options, folder, History()
        self._accelerator, self._maker, self._examples = accelerator, maker, examples
        self._bare = teacher
        self._learning = {name: one for name, one in teacher.named_parameters() if one.requires_grad}
        optimizer = torch.optim.AdamW(self._groups(), lr=options.rate)
        self._teacher: nn.Module
        self._teacher, self._optimizer = accelerator.prepare(teacher, optimizer)
        self._order = Order(examples, options.seed)
        self._data = fingerprint(examples)
        self.step = 0
        self.best: float | None = None
        self.unimproved = 0  # validations since the best one

    def _groups(self) -> list[dict[str, Any]]:
        """Biases and norms are not drawn to zero."""
        learning = self._learning.values()
        return [
            {"params": [one for one in learning if one.dim() > 1], "weight_decay": self.options.weight_decay},
            {"params": [one for one in learning if one.dim() <= 1], "weight_decay": 0.0},
        ]

    def run(self, validate: Validate | None) -> None:
        """To the last step, or until validations stop getting better. Raises Stopped when a signal asked to leave, and
        VisionError when the loss is no number any more."""
        options = self.options
        shown = Progress(options.max_steps, self.step, self._accelerator.is_main_process)
        with _asked_to_stop() as stopping, shown:
            batches = ahead(self._maker, self._parts(), options.workers)
            while self.step < options.max_steps:
                loss, gradient = self._learn([next(batches) for _ in range(options.accumulate)])
                if not math.isfinite(loss):
                    raise VisionError(
                        f"At step {self.step} the loss is {loss}: nothing more can be learned. Give a lower --rate or "
                        "a longer --warmup; what was saved before is there."
                    )
                self._note(loss, gradient)
                shown.step(self.step, self.history, rate_at(self.step - 1, options))
                ends = self.step == options.max_steps
                if validate and (ends or self.step % options.validate_every == 0):
                    self._judge(validate(), shown)
                    ends = ends or bool(options.patience and self.unimproved >= options.patience)
                left = self._anyone(stopping())
                if ends or left or self.step % options.save_every == 0:
                    self.save()
                if left:
                    raise Stopped
                if ends:
                    return

    def _parts(self) -> Iterator[list[Example]]:
        """The rows of one call after the other, of those that this device learns from."""
        options, devices, mine = self.options, self._accelerator.num_processes, self._accelerator.process_index
        first = self.step * options.batch * options.accumulate * devices
        parts = (options.max_steps - self.step) * options.accumulate
        for part in range(parts):
            at = first + (part * devices + mine) * options.batch
            yield [self._examples[place] for place in self._order.places(at, options.batch)]

    def _learn(self, batches: list[Batch]) -> tuple[float, float]:
        """One step of the optimizer; the mean loss of its labels, and the norm of the gradient."""
        accelerator = self._accelerator
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.options)
        self._teacher.train()
        labels = self._sum(torch.tensor(sum(batch.labels for batch in batches), dtype=torch.float32))
        lost = torch.zeros((), device=accelerator.device)
        for place, batch in enumerate(batches):
            last = place == len(batches) - 1
            # gradients go between the devices once a step
            with nullcontext() if last else accelerator.no_sync(self._teacher):
                loss, _ = self._teacher(**vars(batch.to(accelerator.device)))
                # the devices' gradients are averaged, and these are parts of one mean
                accelerator.backward(loss * accelerator.num_processes / labels)
                lost += loss.detach()
        norm = accelerator.clip_grad_norm_(self._learning.values(), self.options.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        return float(self._sum(lost)) / float(labels), float(norm)

    def _sum(self, value: Tensor) -> Tensor:
        total: Tensor = self._accelerator.reduce(value.to(self._accelerator.device), "sum")
        return total

    def _anyone(self, mine: bool) -> bool:
        """All devices leave at the same step."""
        return bool(self._sum(torch.tensor(float(mine))) > 0)

    def _note(self, loss: float, gradient: float) -> None:
        rows = self.options.batch * self.options.accumulate * self._accelerator.num_processes
        self.history.add(
            step=self.step,
            epoch=self.step * rows / len(self._examples),
            loss=loss,
            rate=rate_at(self.step - 1, self.options),
            gradient=gradient,
        )

    def loss_of(self, examples: Sequence[Example]) -> float:
        """The mean loss of all labels of the examples, without dropout; every device does a part."""
        size, devices, mine = self.options.batch, self._accelerator.num_processes, self._accelerator.process_index
        parts = [examples[first : first + size] for first in range(0, len(examples), size)][mine::devices]
        self._teacher.eval()
        lost = torch.zeros(2, dtype=torch.float64 if self._accelerator.device.type == "cpu" else torch.float32)
        lost = lost.to(self._accelerator.device)
        with torch.no_grad():
            for batch in ahead(self._maker, iter(parts), self.options.workers):
                loss, labels = self._teacher(**vars(batch.to(self._accelerator.device)))
                lost += torch.stack([loss, labels]).to(lost)
        total = self._sum(lost)
        return float(total[0] / total[1])

    def better(self, figures: dict[str, float]) -> bool:
        """Whether these figures are the best so far, by the one that `best_by` names."""
        value = self._value(figures)
        return self.best is None or value > self.best

    def _value(self, figures: dict[str, float]) -> float:
        """Larger is better."""
        name = self.options.best_by
        return -figures["validation_loss"] if name == "loss" else figures.get(name, -math.inf)

    def _judge(self, figures: dict[str, float], shown: Progress) -> None:
        [figures] = broadcast_object_list([figures])
        self.history.validated(figures)
        if self.better(figures):
            self.best, self.unimproved = self._value(figures), 0
        else:
            self.unimproved += 1
        shown.tell(self.step, figures, best=self.unimproved == 0)

    def save(self) -> None:
        """The state, the table and the curves."""
        accelerator = self._accelerator
        chances = gather_object([state.random_state()])
        if accelerator.is_main_process:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
            saved = {
                "options": self._held(),
                "data": self._data,
                "devices": accelerator.num_processes,
                "step": self.step,
                "best": self.best,
                "unimproved": self.unimproved,
                "history": self.history.rows,
                "weights": {name: one.detach().cpu() for name, one in self._learning.items()},
                "optimizer": self._optimizer.state_dict(),
                "scaler": scaler,
                "chances": chances,
            }
            state.write(self.folder, saved)
            self.history.write(self.folder)
        accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go on with what `save` wrote. Raises BadSetting where the data or the options would make it another run."""
        saved = state.read(self.folder)
        if saved["data"] != self._data:
            raise BadSetting("--resume: the data is not what this run began with; start another one in a new folder.")
        changed = [name for name, value in self._held().items() if saved["options"].get(name) != value]
        if changed or saved["devices"] != self._accelerator.num_processes:
            what = ", ".join(changed) or "the number of devices"
            raise BadSetting(f"--resume: this run began with other options ({what}); give them as they were.")
        with torch.no_grad():
            for name, one in self._learning.items():
                one.copy_(saved["weights"][name])
        self._optimizer.load_state_dict(saved["optimizer"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(saved["scaler"])
        self.step, self.best, self.unimproved = saved["step"], saved["best"], saved["unimproved"]
        self.history.rows = saved["history"]
        state.set_random_state(saved["chances"][self._accelerator.process_index])

    def _held(self) -> dict[str, Any]:
        return {name: value for name, value in _plain(asdict(self.options)).items() if name not in _FREE}


def _plain(value: Any) -> Any:
    """Tuples as lists: what comes back from the file has none."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def accelerator_for(options: Options, cpu: bool = False) -> Accelerator:
    """Raises BadSetting for a precision that the device cannot train in."""
    precision = {"fp32": "no"}.get(options.precision, options.precision)
    if precision == "fp16" and (cpu or not torch.cuda.is_available()):
        raise BadSetting("--precision fp16 needs a CUDA device; bf16 and fp32 train on any.")
    return Accelerator(cpu=cpu, mixed_precision=precision, step_scheduler_with_optimizer=False)


def seed(options: Options, accelerator: Accelerator) -> None:
    """Each device draws its own dropout."""
    set_seed(options.seed + accelerator.process_index)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether a signal has come since; the first only sets this, a second does what it always does."""
    asked = False
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        for one, handler in before.items():
            signal.signal(one, handler)

    for one in (signal.SIGINT, signal.SIGTERM):
        before[one] = signal.signal(one, note)
    try:
        yield lambda: asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
