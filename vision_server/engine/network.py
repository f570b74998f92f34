"""The whole model as one module: vision tower, projector, text model. What weights are loaded into and trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vision_server.engine.config import Config
from vision_server.engine.linear import Int8Linear, PackedLinear
from vision_server.engine.text import TextModel
from vision_server.engine.vision import Projector, VisionTower


class Network(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.vision_tower = VisionTower(config.vision)
        self.projector = Projector(config.vision)
        self.text = TextModel(config.text)

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take, whatever the layers keep them as."""
        plain = {tensor.data_ptr(): tensor.nbytes for tensor in self.state_dict().values()}
        converted = [module for module in self.modules() if isinstance(module, PackedLinear | Int8Linear)]
        return sum([*plain.values(), *(module.weight_bytes for module in converted)])

    def look(self, pixels_BCHW: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> image features (B, N, D), the spatial average first."""
        y: Tensor = self.projector(self.vision_tower(pixels_BCHW))
        return y

    def cross_keys_values(self, states_BSD: Tensor) -> Tensor:
        """Encoder states -> what every decoder layer reads of them, (L, 2, B, H, S, d)."""
        layers = self.text.decoder.layers
        return torch.stack([layer.encoder_attn.keys_values(states_BSD) for layer in layers])  # type: ignore[union-attr, operator]
