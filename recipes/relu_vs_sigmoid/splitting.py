"""The samples that a run trains on, from its settings."""

from __future__ import annotations

from pathlib import Path

from probekit import load

from .data import Split, split_arrays
from .settings import Settings

__all__ = ["split_of"]


def split_of(settings: Settings, data_dir: Path | None, device: str) -> Split:
    """The data set that the settings name, split as they say, on `device`."""
    arrays = load.arrays(settings.source, data_dir)
    # The paper's 5,000 validation samples where they are a small part, as in MNIST and CIFAR10.
    validation = 5000 if len(arrays.y_train) >= 20_000 else 0.15
    split = split_arrays(
        arrays.x_train,
        arrays.y_train,
        arrays.class_names,
        x_test=arrays.x_test,
        y_test=arrays.y_test,
        validation_size=validation,
        seed=settings.split_seed,
    )
    return split.to(device)
