"""Data sets of torchvision: ``torchvision:CIFAR100``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from probekit.errors import DataError, near
from probekit.load.arrays import Split
from probekit.load.images import labelled, transformed
from probekit.load.limits import Limit
from probekit.load.packages import torchvision_module
from probekit.load.transforms import ImageTransform

__all__ = ["TORCHVISION", "TorchvisionRows"]

TORCHVISION = "torchvision:"


class TorchvisionRows(Dataset[Any]):
    """A data set of torchvision, through a transform, each image with its label."""

    def __init__(self, name: str, split: Split, folder: Path, transform: ImageTransform, limit: Limit) -> None:
        self._name, self._transform = name, transform
        self._data = _torchvision_data(name, split, folder)
        labels = next(
            (getattr(self._data, key) for key in ("targets", "_labels", "labels") if _has(self._data, key)), None
        )
        rows = limit.rows(len(self._data), labels)
        self._rows = range(len(self._data)) if rows is None else rows.tolist()
        self.classes: list[str] | None = list(getattr(self._data, "classes", ())) or None
        self.sample_columns: dict[str, Any] = {} if rows is None else {"sample_id": rows}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        image, label = self._data[self._rows[index]]
        return labelled(transformed(image, self._transform, f"sample {index} of {self._name!r}"), label)


def _has(data: Any, key: str) -> bool:
    return len(getattr(data, key, ())) > 0


def _torchvision_data(name: str, split: Split, folder: Path) -> Any:
    """One of torchvision's data sets for classification, whose files must be there."""
    datasets = torchvision_module("datasets", DataError)
    wanted = name.removeprefix(TORCHVISION)
    kind = getattr(datasets, wanted, None)
    known = [each for each in datasets.__all__ if isinstance(getattr(datasets, each), type)]
    if wanted not in known or kind is None:
        raise DataError(f"torchvision has no data set {wanted!r} among its {len(known)}.{near(wanted, known)}")
    if split == "all":
        raise DataError(f"{name!r} has its splits apart. Ask for split 'train' or 'test'.", arguments=("split",))
    parameters = inspect.signature(kind).parameters
    which = {"train": split == "train"} if "train" in parameters else {"split": split} if "split" in parameters else {}
    try:
        return kind(folder, **which)
    except Exception as error:  # torchvision raises many types
        raise DataError(
            f"{name!r} can't be read from {str(folder)!r}: {type(error).__name__}: {error} Download it once: python -c "
            f'"from torchvision.datasets import {wanted}; {wanted}({str(folder)!r}, download=True)".'
        ) from error
