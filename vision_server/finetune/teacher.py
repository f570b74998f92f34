"""A checkpoint of any layout as the model that learns: transformers' own, with matrices of LoRA beside its weights.

The weights come through the engine's reading and rename table, so whatever the daemon serves can be taught. Pictures
are looked at once for all that is asked of them, and their features go to the text model as they do in the engine; the
loss is the one of transformers, as a test holds.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Florence2Config, Florence2ForConditionalGeneration

from vision_server.engine.config import BOS, DECODER_START, EOS, PAD, Config
from vision_server.engine.weights import load_network, native_state
from vision_server.errors import BadSetting
from vision_server.finetune.options import MODULES, Lora

IGNORED = -100  # a label that counts for nothing
VISION = "model.vision_tower."
_HEAD = "lm_head.weight"


def build(directory: Path, config: Config, dropout: float) -> Florence2ForConditionalGeneration:
    """transformers' model with the weights of a checkpoint directory, in float32. Raises CheckpointError."""
    network = load_network(directory, config, torch.device("cpu"), torch.float32)
    state = dict(native_state(network))
    tied = _HEAD not in state
    ends = {"bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS}
    rates = {"dropout": dropout, "attention_dropout": 0.0, "activation_dropout": 0.0}
    text = {"model_type": "bart", **vars(config.text), **ends, **rates, "decoder_start_token_id": DECODER_START}
    described = Florence2Config(
        vision_config={**_lists(vars(config.vision)), "drop_path_rate": 0.0},
        text_config={**text, "is_encoder_decoder": True},
        # the original layout has no token for pictures, and none is needed: their features are given as they are
        image_token_id=config.text.vocab_size - 1 if config.image_token_id is None else config.image_token_id,
        tie_word_embeddings=tied,
        is_encoder_decoder=True,
        **ends,
    )
    model = Florence2ForConditionalGeneration(described)
    missing, unexpected = model.load_state_dict(state, strict=False)
    left = [key for key in missing if not key.endswith(("embed_tokens.weight", _HEAD if tied else "embed_tokens"))]
    assert not unexpected, unexpected
    assert not left, left
    model.tie_weights()
    return model


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def with_lora(model: Florence2ForConditionalGeneration, lora: Lora, frozen_vision: bool, base: str) -> PeftModel:
    """The model with matrices to learn at the modules that `lora` names; nothing else of it learns.

    `base` is what the adapter's description calls the checkpoint. Raises BadSetting where no module is meant.
    """
    modules = targets(model, lora.modules, frozen_vision)
    if not modules:
        raise BadSetting(f"--modules {' '.join(lora.modules)}: the model has no such module that may learn.")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rank_stabilised,
        target_modules=modules,
        bias="none",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in words that are on their way out
        learning = get_peft_model(model, config)
    learning.peft_config["default"].base_model_name_or_path = base
    return learning


def targets(model: nn.Module, wanted: Sequence[str], frozen_vision: bool) -> list[str]:
    """The full names of the linear layers and convolutions that `wanted` means: groups of MODULES, or names' ends."""
    patterns = [MODULES.get(one, rf"(?:.*\.)?{re.escape(one)}") for one in wanted]
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and not (frozen_vision and name.startswith(VISION))
        and any(re.fullmatch(pattern, name) for pattern in patterns)
    ]


def all_weights(model: Florence2ForConditionalGeneration, frozen_vision: bool) -> None:
    """Let everything learn, but for the vision tower where it is `frozen_vision`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (frozen_vision and name.startswith(VISION)))


class Teacher(nn.Module):
    """What is wrapped for several devices: one call looks, reads, answers and compares."""

    def __init__(self, model: Florence2ForConditionalGeneration | PeftModel, recompute: bool = False) -> None:
        super().__init__()
        self.model = model
        self._vision_learns = any(one.requires_grad for one in self._florence.model.vision_tower.parameters())
        if recompute:
            _recompute(self._florence)

    @property
    def _florence(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def forward(
        self, pixels_PCHW: Tensor, picture_of_R: Tensor, prompts_RT: Tensor, answers_RL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum of the negative log likelihoods of all labels, and how many there are.

        Row r asks about the picture `picture_of_R[r]`; prompts are padded with PAD, answers with IGNORED.
        """
        florence = self._florence
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._vision_learns):
            seen = florence.model.vision_tower(pixels_PCHW).last_hidden_state
        features = florence.model.multi_modal_projector(seen)[picture_of_R]
        inputs = torch.cat([features, florence.get_input_embeddings()(prompts_RT)], dim=1)
        mask = F.pad((prompts_RT != PAD).long(), (features.shape[1], 0), value=1)
        given = F.pad(answers_RL[:, :-1].masked_fill(answers_RL[:, :-1] == IGNORED, PAD), (1, 0), value=DECODER_START)
        said = florence(inputs_embeds=inputs, attention_mask=mask, decoder_input_ids=given, use_cache=False)
        loss = F.cross_entropy(
            said.logits.float().flatten(0, 1), answers_RL.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return loss, (answers_RL != IGNORED).sum()


def _recompute(florence: Any) -> None:
    """Forget what the layers made and make it again on the way back: less memory, a third more time."""
    text = florence.model.language_model
    layers = [*text.encoder.layers, *text.decoder.layers, *(b for s in florence.model.vision_tower.blocks for b in s)]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
