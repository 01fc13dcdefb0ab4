"""Files that trainings leave on disk: the state of an unfinished one, and the networks of a finished one."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Split
from .networks import Curves, Member, Snapshot, Trained, build

__all__ = ["ACCURACIES", "SNAPSHOTS", "Checkpoint", "load_networks", "read", "save_networks", "write"]

SNAPSHOTS = ("best", "last")
ACCURACIES = ("train_accuracy", "validation_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Checkpoint:
    """The file with a training's state, written every so many epochs; `key` is all that its numbers depend on."""

    path: Path
    every: int
    key: dict[str, Any]

    def load(self, device: torch.device | str) -> dict[str, Any] | None:
        """The last state saved under this key, or None."""
        return read(self.path, self.key, device)

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Save the state if `epoch`, counted from 1, is one to save after."""
        if epoch % self.every == 0:
            write(self.path, {"key": self.key, "epoch": epoch, **state})

    def remove(self) -> None:
        """Remove the file: the training is finished, and its results are saved."""
        self.path.unlink(missing_ok=True)


def save_networks(path: Path, results: Sequence[Trained], key: dict[str, Any]) -> None:
    """Write the networks of one shape to `path`; `key` is all that their training depends on."""
    write(path, {"key": key, "networks": [_packed(result) for result in results]})


def load_networks(path: Path, members: Sequence[Member], split: Split, key: dict[str, Any]) -> list[Trained] | None:
    """The networks that `save_networks` wrote for these members under this `key`, or None."""
    found = read(path, key, split.train.x.device)
    if found is None or [entry["member"] for entry in found["networks"]] != [asdict(m) for m in members]:
        return None
    return [_unpacked(entry, member, split) for entry, member in zip(found["networks"], members, strict=True)]


def _packed(result: Trained) -> dict[str, Any]:
    return {
        "member": asdict(result.member),
        "untrained": result.untrained.state_dict(),
        **{name: _packed_snapshot(result.trained(name)) for name in SNAPSHOTS},
        "curves": [torch.from_numpy(curve) for curve in result.curves],
        "seconds": result.seconds,
    }


def _packed_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    numbers = {name: getattr(snapshot, name) for name in ("epoch", *ACCURACIES)}
    return {"weights": snapshot.network.state_dict(), **numbers}


def _unpacked(entry: dict[str, Any], member: Member, split: Split) -> Trained:
    def network(weights: dict[str, Tensor]) -> nn.Sequential:
        built = build(member.config, split.features, split.classes, member.seed).to(split.train.x.device)
        built.load_state_dict(weights)
        return built.eval()

    def snapshot(name: str) -> Snapshot:
        numbers = dict(entry[name])
        return Snapshot(network(numbers.pop("weights")), **numbers)

    return Trained(
        member=member,
        untrained=network(entry["untrained"]),
        **{name: snapshot(name) for name in SNAPSHOTS},
        curves=Curves(*(curve.cpu().numpy() for curve in entry["curves"])),
        seconds=entry["seconds"],
    )


def write(path: Path, content: Any) -> None:
    """Write `content`, tensors and plain values, to `path`; a kill at any moment leaves the old file or the new one."""
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
    """The content that `write` left at `path`, or None if there is none or its ``"key"`` isn't `key`."""
    if not path.exists():
        return None
    found: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    return found if found["key"] == key else None
