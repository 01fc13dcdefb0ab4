"""Trained networks on disk, so that a run that is started again trains none of them twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import checkpoint
from .data import Split
from .networks import build
from .training import Curves, Member, Trained

__all__ = ["load", "save"]

NUMBERS = ("best_epoch", "train_accuracy", "validation_accuracy", "test_accuracy", "seconds")


def save(path: Path, results: Sequence[Trained], key: dict[str, Any]) -> None:
    """Write the networks of one shape to `path`; `key` is all that their training depends on."""
    checkpoint.write(path, {"key": key, "networks": [_pack(result) for result in results]})


def load(path: Path, members: Sequence[Member], split: Split, key: dict[str, Any]) -> list[Trained] | None:
    """The networks that `save` wrote for these members under this `key`, or None where there are none such."""
    found = checkpoint.read(path, key, split.train.x.device)
    if found is None or [entry["member"] for entry in found["networks"]] != [asdict(m) for m in members]:
        return None
    return [_unpack(entry, member, split) for entry, member in zip(found["networks"], members, strict=True)]


def _pack(result: Trained) -> dict[str, Any]:
    return {
        "member": asdict(result.member),
        "untrained": result.untrained.state_dict(),
        "trained": result.trained.state_dict(),
        "curves": [torch.from_numpy(curve) for curve in result.curves],
        **{name: getattr(result, name) for name in NUMBERS},
    }


def _unpack(entry: dict[str, Any], member: Member, split: Split) -> Trained:
    def network(state: str) -> nn.Sequential:
        made = build(member.config, split.features, split.classes, member.seed).to(split.train.x.device)
        made.load_state_dict(entry[state])
        return made.eval()

    return Trained(
        member=member,
        untrained=network("untrained"),
        trained=network("trained"),
        curves=Curves(*(curve.cpu().numpy() for curve in entry["curves"])),
        **{name: entry[name] for name in NUMBERS},
    )
