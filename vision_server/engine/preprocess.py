"""Picture -> pixels and prompt -> token ids, as the checkpoint's own files say. No model in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from vision_server.engine.config import BOS, EOS, PAD, PreprocessConfig
from vision_server.errors import CheckpointError

TOKENIZER_FILE = "tokenizer.json"
LOCATIONS = 1000
ENDS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # BART's: bos, pad, eos, unk, mask
IMAGE_TOKEN = "<image>"  # the native layout's, for the places of a picture in the text
_TASK_TOKENS = (
    "<cap> </cap> <ncap> </ncap> <dcap> </dcap> <grounding> </grounding> <seg> </seg> <sep> <region_cap> </region_cap> "
    "<region_to_desciption> </region_to_desciption> <proposal> </proposal> <poly> </poly> <and>"
)
# Florence-2's own tokens, in the order in which its processor adds them to BART's; the misspelling is theirs.
FLORENCE_TOKENS = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{n}>" for n in range(LOCATIONS)),
    *_TASK_TOKENS.split(),
)


def to_rgb(image: Image.Image, config: PreprocessConfig) -> NDArray[np.uint8]:
    """An upright picture -> RGB (height, width, 3) of the size the model looks at, its aspect ratio not kept."""
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (config.width, config.height):
        image = image.resize((config.width, config.height), Image.Resampling(config.resample))
    return np.asarray(image)


def normalise(rgb_HWC: NDArray[np.uint8], config: PreprocessConfig) -> Tensor:
    """RGB -> pixels (3, height, width) in float32, as the model was trained on them."""
    pixels_HWC = rgb_HWC.astype(np.float32) * np.float32(config.rescale_factor)
    pixels_HWC = (pixels_HWC - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)


def to_pixels(image: Image.Image, config: PreprocessConfig) -> Tensor:
    """Both at once."""
    return normalise(to_rgb(image, config), config)


class PromptTokenizer:
    """The checkpoint's byte-level BPE. `<s> text </s>` is put around a prompt here, whatever template the file has."""

    def __init__(self, directory: Path) -> None:
        path = directory / TOKENIZER_FILE
        if not path.exists():
            raise CheckpointError(f"The checkpoint has no {TOKENIZER_FILE}.")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise CheckpointError(f"The checkpoint's {TOKENIZER_FILE} cannot be read.") from error
        if self._tokenizer.token_to_id("<loc_0>") is None:
            # the stock file is plain BART's; ids go on from the end of its vocabulary
            self._tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in FLORENCE_TOKENS])
        # a re-saved file may carry the padding or truncation of its training
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def add(self, token: str) -> int:
        """The id of a token that is to be one; the next free one where it is not in the vocabulary."""
        self._tokenizer.add_special_tokens([AddedToken(token, normalized=False)])
        place: int | None = self._tokenizer.token_to_id(token)
        assert place is not None, "it was added"
        return place

    def save(self, path: Path) -> None:
        self._tokenizer.save(str(path))

    def encode(self, prompt: str) -> list[int]:
        return [BOS, *self._tokenizer.encode(prompt, add_special_tokens=False).ids, EOS]

    def decode(self, ids: list[int]) -> str:
        """Location tokens and those of the tasks stay; the sequence's own ends do not."""
        inner = [i for i in ids if i not in (BOS, PAD, EOS)]
        text: str = self._tokenizer.decode(inner, skip_special_tokens=False)
        return text
