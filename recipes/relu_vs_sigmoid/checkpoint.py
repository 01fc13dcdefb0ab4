"""Files that are there whole or not at all, and what an unfinished training needs to go on."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Checkpoint", "read", "write"]


def write(path: Path, content: Any) -> None:
    """Put `content`, tensors and plain values, at `path`; a kill at any moment leaves the old file or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()  # torch.save's own errors of a full disk don't say what they are
    torch.save(content, packed)
    with partial.open("wb") as file:
        file.write(packed.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read(path: Path, key: dict[str, Any], device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """What `write` put at `path`, or None where there is nothing or its ``"key"`` isn't `key`."""
    if not path.exists():
        return None
    found: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    return found if found["key"] == key else None


@dataclass(frozen=True)
class Checkpoint:
    """Where a training leaves its state, and after how many epochs each; `key` is all that its numbers depend on."""

    path: Path
    every: int
    key: dict[str, Any]

    def load(self, device: torch.device | str) -> dict[str, Any] | None:
        """The state that was saved last under this key."""
        return read(self.path, self.key, device)

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Save where the epoch, counted from 1, is one to save after."""
        if epoch % self.every == 0:
            write(self.path, {"key": self.key, "epoch": epoch, **state})

    def remove(self) -> None:
        """Remove it: the training is finished, and its results are safe."""
        self.path.unlink(missing_ok=True)
