"""The study's data: the settings' data set as stratified samples to train, validate and test on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from probekit import load
from probekit.errors import DataError

from .settings import Settings

__all__ = ["Samples", "Split", "arrays_and_split", "channel_scaling", "split_arrays", "split_of", "validation_size"]

Array: TypeAlias = NDArray[Any]


def split_of(settings: Settings, data_dir: Path | None, device: str) -> Split:
    """The data set that the settings name, split as they say, on `device`."""
    return arrays_and_split(settings, data_dir, scaled=True)[1].to(device)


def arrays_and_split(settings: Settings, data_dir: Path | None, *, scaled: bool) -> tuple[load.Arrays, Split]:
    """The data set that the settings name, and its split, on the CPU."""
    arrays = load.arrays(settings.source, data_dir)
    if arrays.y_train is None:
        raise DataError(f"{settings.source!r} has no labels of classes, which the study compares.")
    split = split_arrays(
        arrays.x_train,
        arrays.y_train,
        arrays.class_names,
        x_test=arrays.x_test,
        y_test=arrays.y_test,
        validation_size=validation_size(len(arrays.y_train)),
        seed=settings.split_seed,
        scaled=scaled,
    )
    return arrays, split


def validation_size(samples: int) -> int | float:
    """The paper's 5,000 validation samples where they are few among many, as in MNIST and CIFAR10; else a share."""
    return 5000 if samples >= 20_000 else 0.15


@dataclass(frozen=True)
class Samples:
    """Scaled samples: x (n, features) float32, y (n,) int64 class codes.

    `index` (n,) int64 is each sample's row in the original arrays.
    """

    x: Tensor
    y: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> Samples:
        """The same samples on `device`."""
        return Samples(self.x.to(device), self.y.to(device), self.index.to(device))


@dataclass(frozen=True)
class Split:
    """The samples to train on, to choose weights by, and to report on; `class_names` are in the order of the codes.

    `scaling` has the mean and the deviation by which samples were scaled, shaped to broadcast against a batch of them;
    None if they were not.
    """

    train: Samples
    validation: Samples
    test: Samples
    class_names: tuple[str, ...]
    scaling: tuple[Array, Array] | None = None

    @property
    def features(self) -> int:
        """The number of a network's inputs."""
        return self.train.x.shape[1]

    @property
    def classes(self) -> int:
        """The number of a network's outputs."""
        return len(self.class_names)

    @cached_property
    def digest(self) -> str:
        """A checksum of all samples and labels, the same on every device."""
        digest = sha256()
        for samples in self.subsets:
            digest.update(samples.x.cpu().numpy().data)
            digest.update(samples.y.cpu().numpy().data)
        return digest.hexdigest()

    @property
    def subsets(self) -> tuple[Samples, Samples, Samples]:
        """The training, validation and test samples, in this order."""
        return self.train, self.validation, self.test

    def to(self, device: torch.device | str) -> Split:
        """The same split on `device`, where training then runs."""
        train, validation, test = (samples.to(device) for samples in self.subsets)
        return Split(train, validation, test, self.class_names, self.scaling)


def split_arrays(
    x: Array,
    y: Array,
    class_names: tuple[str, ...],
    *,
    x_test: Array | None = None,
    y_test: Array | None = None,
    validation_size: int | float = 0.15,
    test_size: int | float = 0.2,
    seed: int = 0,
    scaled: bool = True,
) -> Split:
    """Training, validation and test samples with equal shares of each class, scaled by the training samples.

    Args:
        x: features (n, features), or images (n, height, width), (n, height, width, channel) or
            (n, channel, height, width); the channel axis is the shorter one. Any real numbers.
        y: class codes (n,), from 0 to one less than the number of `class_names`.
        class_names: the classes in the order of their codes.
        x_test, y_test: the test set if the data come with one; else `test_size` of x and y is held out.
        validation_size, test_size: a fraction, or a number of samples. The validation fraction is a fraction of the
            samples that are not in the test set.
        seed: of the split alone, so trainings with different seeds share it.

        scaled: False keeps the values as they are.

    Scaling subtracts the mean and divides by the standard deviation, over the training samples (validation
    excluded), of each channel; without a channel axis, of all values together. Images are flattened in the
    order of their axes.

    Raises:
        DataError: the arrays don't fit together, or have too few samples of a class for every subset.

    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits()
    >>> split = split_arrays(digits.images, digits.target, tuple("0123456789"))
    >>> len(split.train), len(split.validation), len(split.test)
    (1221, 216, 360)
    """
    _check(x, y, class_names, "training")
    if (x_test is None) != (y_test is None):
        raise DataError("A test set needs both x_test and y_test: give both, or neither to hold out samples of x.")
    if x_test is None or y_test is None:
        rest, test_rows = _hold_out(np.arange(len(y)), y, test_size, seed, "test")
        x_test, y_test = x, y
    else:
        _check(x_test, y_test, class_names, "test")
        rest, test_rows = np.arange(len(y)), np.arange(len(y_test))
    if x_test.shape[1:] != x.shape[1:]:
        raise DataError(f"A test sample has shape {x_test.shape[1:]} and a training sample {x.shape[1:]}.")
    train_rows, validation_rows = _hold_out(rest, y, validation_size, seed, "validation")
    scaling = channel_scaling(x[train_rows]) if scaled else None
    mean, deviation = scaling or (np.float32(0), np.float32(1))

    def samples(source: Array, codes: Array, rows: Array) -> Samples:
        values = (source[rows].astype(np.float32) - mean) / deviation
        flat = torch.from_numpy(values.reshape(len(rows), -1))
        return Samples(flat, torch.from_numpy(codes[rows].astype(np.int64)), torch.from_numpy(rows))

    train, validation = samples(x, y, train_rows), samples(x, y, validation_rows)
    return Split(train, validation, samples(x_test, y_test, test_rows), class_names, scaling)


def _check(x: Array, y: Array, class_names: tuple[str, ...], subset: str) -> None:
    """Raise unless x and y are samples and their codes."""
    if x.ndim not in (2, 3, 4) or y.shape != x.shape[:1]:
        raise DataError(
            f"The {subset} samples have shape {x.shape} and their labels {y.shape}; expected (n, features) or images "
            "of two or three axes each, and one label a sample."
        )
    if not np.issubdtype(y.dtype, np.integer) or (len(y) and (y.min() < 0 or y.max() >= len(class_names))):
        found = f"{y.dtype} from {y.min()} to {y.max()}" if len(y) else str(y.dtype)
        raise DataError(
            f"The {subset} labels are {found}; expected integer codes from 0 to {len(class_names) - 1}, one for each "
            f"of the {len(class_names)} class names."
        )
    if not np.isfinite(x).all():
        raise DataError(f"The {subset} samples have values that are not finite; remove or fill them first.")


def _hold_out(rows: Array, y: Array, size: int | float, seed: int, subset: str) -> tuple[Array, Array]:
    """`rows` without a stratified subset, and this subset, both in ascending order."""
    try:
        rest, chosen = train_test_split(rows, test_size=size, random_state=seed, stratify=y[rows])
    except ValueError as error:
        raise DataError(f"Can't hold out a {subset} set of {size} from {len(rows)} samples: {error}") from error
    return np.sort(rest), np.sort(chosen)


def channel_scaling(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each channel, shaped to broadcast against a batch of samples."""
    channel = None if x.ndim < 4 else (1 if x.shape[1] < x.shape[3] else 3)
    axes = tuple(axis for axis in range(x.ndim) if axis != channel)
    mean = x.mean(axes, keepdims=True, dtype=np.float64)
    deviation = x.std(axes, keepdims=True, dtype=np.float64)
    if not deviation.all():
        raise DataError("A channel has the same value in every training sample, so it can't be scaled; remove it.")
    return mean.astype(np.float32), deviation.astype(np.float32)
