"""Florence-2 on one device: load, submit, step, cancel, generate. The only public name of the room.

Requests join and leave the running decoder between two steps. A step encodes the first of those that were submitted
and then takes one token for every running request. Nothing here waits, starts a thread or knows who asks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vision_server.engine.adapter import Adapter
from vision_server.engine.beam import Rules
from vision_server.engine.config import PAD, Config, read_config
from vision_server.engine.decoding import Decoding
from vision_server.engine.device import INT8, choose_device, choose_dtype, choose_linear, is_out_of_memory
from vision_server.engine.features import DEFAULT_BYTES, Features
from vision_server.engine.graphs import graphs_for
from vision_server.engine.linear import Int8Linear
from vision_server.engine.network import Network
from vision_server.engine.parts import Parts
from vision_server.engine.policy import Policy, policy_for
from vision_server.engine.preprocess import PromptTokenizer, normalise, to_rgb
from vision_server.engine.weights import Progress, load_network
from vision_server.errors import BadOption, OutOfMemory, PromptTooLong

DEFAULT_MAX_NEW_TOKENS = 1024


@dataclass(frozen=True)
class Options:
    """How one answer is generated. `max_new_tokens` None means 1024, cut to the checkpoint's position table."""

    num_beams: int = 3
    max_new_tokens: int | None = None
    no_repeat_ngram_size: int = 3
    length_penalty: float = 1.0
    early_stopping: bool = True


@dataclass(frozen=True)
class Generation:
    """An answer. `text` is raw: location tokens included, the sequence's ends not. `token_ids` hold all that was
    generated, forced tokens and the end token included. `finish_reason` is "length" when the limit ended it."""

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_tokens: int
    encode_s: float
    generate_s: float


@dataclass
class _Request:
    ticket: int
    rgb: NDArray[np.uint8]
    picture_key: bytes
    prompt_ids: list[int]
    rules: Rules
    encode_s: float = 0.0
    started_s: float = 0.0


class Florence:
    """Not thread-safe: one thread submits, steps and cancels."""

    def __init__(
        self,
        network: Network,
        config: Config,
        tokenizer: PromptTokenizer,
        device: torch.device,
        dtype: torch.dtype,
        feature_cache_bytes: int = DEFAULT_BYTES,
        policy: Policy | None = None,
    ) -> None:
        """`policy` None takes the device's own."""
        self.network, self.config, self.tokenizer = network, config, tokenizer
        self._device, self._dtype = device, dtype
        self._policy = policy or policy_for(device, dtype)
        self._decoding = Decoding(network.text, config.text, device, dtype, self._policy, graphs_for(device))
        self._features = Features(self._look, config.preprocess, feature_cache_bytes)
        self._tickets = count(1)
        self._pending: list[_Request] = []
        self._running: list[_Request] = []  # in the order of the decoding's slots

    @classmethod
    def load(
        cls,
        directory: Path | str,
        device: str = "auto",
        dtype: str = "auto",
        progress: Progress | None = None,
        adapter: Path | str | None = None,
        feature_cache_bytes: int = DEFAULT_BYTES,
        plain: bool = False,
        parts: Parts | None = None,
    ) -> Florence:
        """Load a checkpoint directory. `device` is auto, cpu, cuda, cuda:N, mps or xpu; `dtype` is auto, float32,
        float16, bfloat16 or, on a CPU, int8. `progress` hears (phase, bytes done, bytes in all). `adapter` is a folder
        with a LoRA adapter of PEFT's, merged into the weights. `feature_cache_bytes` of device memory may hold the
        features of the last pictures, so that they are looked at only once; 0 for none. With `plain` the layers are
        torch's own, whose weights can be read and changed; they answer the same, on a CPU later. `parts` of this
        checkpoint, made ahead, save their making; they can be used once.

        Raises CheckpointError (files), BadOption (unknown device or dtype), OutOfMemory.
        """
        directory = Path(directory)
        config = read_config(directory)
        target = choose_device(device)
        kind = choose_dtype(dtype, target)
        convert = None if plain else choose_linear(dtype, target, kind)
        lora = Adapter.read(Path(adapter)) if adapter is not None else None
        ready = parts if parts and parts.fit(directory, config) else None
        with ThreadPoolExecutor(1, "tokenizer") as beside:  # it takes a tenth of a second, in which weights are copied
            tokenizer = beside.submit(lambda: ready.tokenizer if ready else PromptTokenizer(directory))
            try:
                empty = ready.network if ready else None
                network = load_network(directory, config, target, kind, progress, lora, convert, empty)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory("The device has too little free memory to load the model.") from error
        return cls(network, config, tokenizer.result(), target, kind, feature_cache_bytes)

    @property
    def device(self) -> str:
        return str(self._device)

    @property
    def dtype(self) -> str:
        if any(isinstance(module, Int8Linear) for module in self.network.modules()):
            return INT8
        return str(self._dtype).removeprefix("torch.")

    @property
    def max_positions(self) -> int:
        return self.config.text.max_position_embeddings

    @property
    def image_tokens(self) -> int:
        """Encoder positions a picture takes, the spatial average included."""
        height, width = self.config.grid
        return height * width + 1

    @property
    def busy(self) -> bool:
        return bool(self._pending or self._running)

    @property
    def feature_bytes(self) -> int:
        """Device memory that the features of the last pictures take."""
        return self._features.nbytes

    def forget_features(self) -> None:
        """Give that memory up; pictures that come again are looked at again."""
        self._features.clear()

    def new_tokens(self) -> dict[int, int]:
        """How many tokens each running request has so far, by ticket."""
        return {request.ticket: self._decoding.new_tokens(slot) for slot, request in enumerate(self._running)}

    def submit(self, image: Image.Image, prompt_text: str, options: Options | None = None) -> int:
        """Queue an upright RGB picture and the sentence sent with it; the next step takes it up. Returns its ticket.

        Raises PromptTooLong, BadOption.
        """
        prompt_ids = self.tokenizer.encode(prompt_text)
        room = self.max_positions - self.image_tokens
        if len(prompt_ids) > room:
            raise PromptTooLong(f"The prompt has {len(prompt_ids) - 2} tokens; this model takes at most {room - 2}.")
        rules = self._rules(options or Options())
        rgb = to_rgb(image, self.config.preprocess)
        request = _Request(next(self._tickets), rgb, self._features.key(rgb), prompt_ids, rules)
        self._pending.append(request)
        return request.ticket

    def _rules(self, options: Options) -> Rules:
        limit, most = options.max_new_tokens, self.max_positions
        if limit is None:
            limit = min(DEFAULT_MAX_NEW_TOKENS, most)
        if not 1 <= limit <= most:
            raise BadOption(f"max_new_tokens must be between 1 and {most} for this model, not {limit}.")
        if options.num_beams < 1 or options.no_repeat_ngram_size < 0:
            raise BadOption("num_beams must be at least 1 and no_repeat_ngram_size at least 0.")
        return Rules(
            num_beams=options.num_beams,
            limit=limit,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            length_penalty=options.length_penalty,
            early_stopping=options.early_stopping or options.num_beams == 1,
            forced_bos=self.config.generation.forced_bos_token_id,
            forced_eos=self.config.generation.forced_eos_token_id,
        )

    @torch.inference_mode()
    def cancel(self, ticket: int) -> None:
        """Forget a request, waiting or running; an unknown or finished ticket is no error."""
        self._pending = [request for request in self._pending if request.ticket != ticket]
        for slot, request in enumerate(self._running):
            if request.ticket == ticket:
                self._drop(slot)
                return

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Generation]]:
        """Take up the first of what was submitted, advance every running request by one token, return those that
        finished.

        Raises OutOfMemory; what was running still is, what was waiting still waits.
        """
        try:
            fresh = self._pending[: self._policy.admit_at_once]
            if fresh:
                self._admit(fresh)
                del self._pending[: len(fresh)]
            done = self._decoding.step() if self._running else []
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._decoding.release()
            raise OutOfMemory("The device ran out of memory.") from error
        finished = []
        # from the last slot on: dropping one moves the last into its place
        for slot in reversed(done):
            finished.append((self._running[slot].ticket, self._generation(slot)))
            self._drop(slot)
        return finished

    def _admit(self, requests: list[_Request]) -> None:
        """Look at the pictures, encode the prompts, and give every request a slot."""
        began_s = time.perf_counter()
        features = self._features.of([r.rgb for r in requests], [r.picture_key for r in requests])
        lengths = [len(request.prompt_ids) for request in requests]
        ids = pad_sequence([torch.tensor(r.prompt_ids) for r in requests], batch_first=True, padding_value=PAD)
        mask = None
        if len(set(lengths)) > 1:
            mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(self._device)
        states = self.network.text.encode(features, ids.to(self._device), mask)
        cross = self.network.cross_keys_values(states)
        sources = [features.shape[1] + length for length in lengths]
        self._decoding.add(cross, sources, [request.rules for request in requests])
        self._running += requests
        now_s = time.perf_counter()
        for request in requests:
            request.encode_s, request.started_s = now_s - began_s, now_s

    def _look(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        pixels = torch.stack([normalise(rgb, self.config.preprocess) for rgb in pictures])
        return self.network.look(pixels.to(self._device, self._dtype))

    def _drop(self, slot: int) -> None:
        self._decoding.remove(slot)
        self._running[slot] = self._running[-1]
        self._running.pop()

    def _generation(self, slot: int) -> Generation:
        request, ids = self._running[slot], self._decoding.result(slot)
        return Generation(
            text=self.tokenizer.decode(ids),
            token_ids=ids,
            finish_reason="length" if len(ids) >= request.rules.limit else "stop",
            prompt_tokens=len(request.prompt_ids),
            encode_s=request.encode_s,
            generate_s=time.perf_counter() - request.started_s,
        )

    def generate(
        self,
        requests: Sequence[tuple[Image.Image, str]],
        *,
        num_beams: int = 3,
        max_new_tokens: int | None = None,
        no_repeat_ngram_size: int = 3,
        length_penalty: float = 1.0,
        early_stopping: bool = True,
    ) -> list[Generation]:
        """Answer several (picture, sentence) pairs as one batch; the answers come in the order of the pairs."""
        options = Options(num_beams, max_new_tokens, no_repeat_ngram_size, length_penalty, early_stopping)
        tickets = [self.submit(image, prompt_text, options) for image, prompt_text in requests]
        answers: dict[int, Generation] = {}
        while not answers.keys() >= set(tickets):
            answers.update(self.step())
        return [answers[ticket] for ticket in tickets]
