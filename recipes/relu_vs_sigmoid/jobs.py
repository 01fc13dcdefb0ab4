"""The trainings of a run, one after another: each is resumed where it was stopped and none is done twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probekit.progress import Progress

from . import finished
from .checkpoint import Checkpoint
from .data import Split
from .settings import Settings
from .training import Member, Trained, train

__all__ = ["Jobs"]


@dataclass(frozen=True)
class Jobs:
    """What the trainings of a run share. `folder` gets ``networks/`` and, while one runs, ``checkpoints/``."""

    settings: Settings
    split: Split
    folder: Path
    checkpoint_every: int
    progress: Progress

    def key(self, members: Sequence[Member], epochs: int, patience: int) -> dict[str, Any]:
        """All that the numbers of a training depend on."""
        return {
            "data": self.split.digest,
            "members": [asdict(member) for member in members],
            "epochs": epochs,
            "patience": patience,
            "batch_size": self.settings.batch_size,
            "decay": self.settings.decay,
            "precision": self.settings.precision,
        }

    def networks(self, members: Sequence[Member]) -> list[Trained]:
        """The study's own networks of one shape, trained or as they were saved."""
        shape, epochs, patience = members[0].config.shape, self.settings.epochs, self.settings.patience
        path, key = self.folder / "networks" / f"{shape}.pt", self.key(members, epochs, patience)
        found = finished.load(path, members, self.split, key)
        if found is None:
            found = self.train(members, shape, epochs, patience)
            finished.save(path, found, key)
        self.checkpoint(shape, key).remove()
        return found

    def train(self, members: Sequence[Member], name: str, epochs: int, patience: int) -> list[Trained]:
        """Train networks of one shape, from the checkpoint of this name where there is one."""
        return train(
            members,
            self.split,
            epochs=epochs,
            batch_size=self.settings.batch_size,
            decay=self.settings.decay,
            patience=patience,
            precision=self.settings.precision,
            checkpoint=self.checkpoint(name, self.key(members, epochs, patience)),
            progress=self.progress,
        )

    def checkpoint(self, name: str, key: dict[str, Any]) -> Checkpoint:
        """Where the training of this name leaves its state."""
        return Checkpoint(self.folder / "checkpoints" / f"{name}.pt", self.checkpoint_every, key)
