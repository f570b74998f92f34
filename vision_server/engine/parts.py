"""What of a checkpoint can be had before a device is opened or a weight is read: its tokenizer, and a network without
values. Small, so that it can be kept for a load that may come; a load that finds other files makes them anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vision_server.engine.config import Config, read_config
from vision_server.engine.network import Network
from vision_server.engine.preprocess import TOKENIZER_FILE, PromptTokenizer
from vision_server.engine.weights import empty_network


@dataclass
class Parts:
    """Of the checkpoint that lay in `directory` when they were made. For one load: that fills the network."""

    directory: Path
    config: Config
    tokenizer: PromptTokenizer
    network: Network
    _stamp: tuple[int, ...]

    @classmethod
    def of(cls, directory: Path) -> Parts:
        """Raises CheckpointError."""
        stamp, config = _stamp(directory), read_config(directory)
        return cls(directory, config, PromptTokenizer(directory), empty_network(config), stamp)

    def fit(self, directory: Path, config: Config) -> bool:
        """Whether they are what a load from `directory`, which has read `config` just now, would make."""
        return (self.directory, self.config, self._stamp) == (directory, config, _stamp(directory))


def _stamp(directory: Path) -> tuple[int, ...]:
    """Of the tokenizer's file; empty without one."""
    try:
        found = (directory / TOKENIZER_FILE).stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
