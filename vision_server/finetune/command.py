"""What `vision-server finetune` does: data -> examples -> a run -> what can be served."""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vision_server import served, settings
from vision_server.dataset.examples import Example
from vision_server.engine import Florence
from vision_server.engine.config import Config, read_config
from vision_server.engine.preprocess import PromptTokenizer
from vision_server.errors import BadInput, BadSetting, VisionError
from vision_server.finetune import validation, writing
from vision_server.finetune.batches import Maker
from vision_server.finetune.checking import Checked, check, report
from vision_server.finetune.examples import split
from vision_server.finetune.flags import options_of
from vision_server.finetune.history import CSV_FILE, PLOT_FILE
from vision_server.finetune.options import Options
from vision_server.finetune.state import STATE_FILE
from vision_server.finetune.teacher import Teacher, all_weights, build, with_lora
from vision_server.finetune.trainer import Stopped, Trainer, accelerator_for, plan, seed
from vision_server.pull import folder_of

RUN_FILE, ANSWERS_FILE, CANDIDATE = "run.json", "answers.jsonl", "candidate"
_LIBRARIES = ("torch", "transformers", "peft", "accelerate")


def main(flags: Mapping[str, Any], set_by_flags: Mapping[str, Any], config: Path | None) -> int:
    """0 when it is done, 1 for faults in the data or a checkpoint that cannot be had, 130 when a person ended it.

    Raises BadSetting.
    """
    options = options_of(flags)
    logging.getLogger("transformers").setLevel(logging.ERROR)  # of a model that is put together here, it warns in vain
    try:
        return _Finetune(flags, options, settings.load(set_by_flags, config).settings).run()
    except Stopped:
        sys.stderr.write("stopped; --resume goes on from here.\n")
        return 130
    except BadSetting:
        raise
    except VisionError as error:
        sys.stderr.write(f"vision-server finetune: {error}\n")
        return 1


class _Finetune:
    def __init__(self, flags: Mapping[str, Any], options: Options, chosen: settings.Settings) -> None:
        self.flags = flags
        taught = served.alone(chosen.model, chosen)
        if taught.adapter is not None:
            raise BadSetting(f"{taught.name} has an adapter: merge it first (`vision-server merge`), and teach that.")
        self.checkpoint = taught.checkpoint
        self.accelerator: Accelerator = accelerator_for(options, flags["cpu"])
        self.options = options
        with self.accelerator.main_process_first():  # one fetches, the others find it
            self.directory = folder_of(self.checkpoint, chosen)
        self.config: Config = read_config(self.directory)
        self.tokenizer = PromptTokenizer(self.directory)

    def run(self) -> int:
        flags, main = self.flags, self.accelerator.is_main_process
        learned = self._checked(flags["data"])
        validated = self._checked(flags["validation"]) if flags["validation"] else Checked([], [], 0)
        if main and (flags["check"] or learned.faults or validated.faults):
            sys.stdout.write(report(learned) + (report(validated) if flags["validation"] else ""))
            sys.stdout.flush()
        if flags["check"]:
            return 1 if learned.faults or validated.faults else 0
        if (learned.faults or validated.faults) and not flags["skip_faulty"]:
            raise BadInput("The data has faults: mend them, or leave those rows out with --skip-faulty.")
        examples, watched = learned.examples, validated.examples
        if not flags["validation"]:
            examples, watched = split(learned.examples, flags["validation_share"], self.options.seed)
        if not examples:
            raise BadInput("There is nothing to learn from.")
        if self.options.patience and not watched:
            raise BadSetting("--patience needs a validation: name one with --validation or --validation-share.")
        self._train(examples, watched, self._folder())
        return 0

    def _checked(self, sources: Sequence[Path]) -> Checked:
        quiet = not self.accelerator.is_main_process
        return check(sources, self.flags["prompt"], self.config, self.tokenizer, self.options.workers, quiet)

    def _folder(self) -> Path:
        folder: Path | None = self.flags["out"]
        if folder is None:
            raise BadSetting("--out names the folder of the run, which is needed to train.")
        begun = (folder / STATE_FILE).exists()
        if begun and not self.flags["resume"]:
            raise BadSetting(f"--out {folder} holds a run: go on with it (--resume), or name another folder.")
        self.accelerator.wait_for_everyone()  # all have looked before one writes
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _train(self, examples: list[Example], watched: list[Example], folder: Path) -> None:
        accelerator = self.accelerator
        options = plan(self.options, len(examples), accelerator.num_processes)
        torch.manual_seed(options.seed)  # the matrices begin alike on every device
        model = build(self.directory, self.config, options.dropout)
        learning: Any = model
        if options.lora is None:
            all_weights(model, options.frozen_vision)
        else:
            learning = with_lora(model, options.lora, options.frozen_vision, self._base())
        teacher = Teacher(learning, options.recompute)
        maker = Maker(self.tokenizer, self.config.preprocess)
        seed(options, accelerator)
        trainer = Trainer(teacher, maker, examples, options, accelerator, folder)
        if self.flags["resume"]:
            trainer.resume()
        self._describe(options, teacher, len(examples), len(watched))

        def validate() -> dict[str, float]:
            figures = {"validation_loss": trainer.loss_of(watched)}
            if accelerator.is_main_process:
                made = writing.write(learning, self.directory, self.config, folder / CANDIDATE)
                figures |= self._answered(made, watched[: options.validation_answers], folder)
                if trainer.better(figures):
                    writing.publish(made, folder)
            return figures

        trainer.run(validate if watched else None)
        if accelerator.is_main_process:
            if not watched:
                writing.publish(writing.write(learning, self.directory, self.config, folder / CANDIDATE), folder)
            self._tell(folder)

    def _answered(self, made: Path, watched: list[Example], folder: Path) -> dict[str, float]:
        """Figures of the answers that what was `made` gives, as the daemon would serve it."""
        if not watched:
            return {}
        dtype = {"fp16": "float16", "bf16": "bfloat16"}.get(self.options.precision, "float32")
        adapter = made if made.name == writing.ADAPTER else None
        device = str(self.accelerator.device)
        florence = Florence.load(self.directory if adapter else made, device, dtype, adapter=adapter, plain=True)
        given = validation.answers(florence, watched)
        validation.write_answers(given, folder / ANSWERS_FILE)
        return validation.figures(given)

    def _base(self) -> str:
        """What the adapter's description calls the checkpoint."""
        return self.checkpoint.repository or self.checkpoint.name

    def _describe(self, options: Options, teacher: Teacher, learned: int, watched: int) -> None:
        """With what the run was made; and a line for the person who waits."""
        total = sum(one.numel() for one in teacher.parameters())
        learning = sum(one.numel() for one in teacher.parameters() if one.requires_grad)
        described = {
            "model": self._base(),
            "options": asdict(options),
            "examples": learned,
            "validation": watched,
            "parameters": {"learning": learning, "all": total},
            "device": f"{self.accelerator.device}, {self.accelerator.num_processes} of them",
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        }
        if self.accelerator.is_main_process:
            text = json.dumps(described, indent=2) + "\n"
            (self.flags["out"] / RUN_FILE).write_text(text, encoding="utf-8")
            sys.stderr.write(
                f"{learned} rows to learn from, {watched} to validate with; {learning:,} of {total:,} weights learn, "
                f"in {options.max_steps} steps on {described['device']}.\n"
            )

    def _tell(self, folder: Path) -> None:
        made = folder / (writing.MODEL if self.options.lora is None else writing.ADAPTER)
        sys.stderr.write(f"done; {folder / CSV_FILE} and {folder / PLOT_FILE} show how it went.\n")
        sys.stdout.write(f"{made}\n")
