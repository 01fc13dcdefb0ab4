"""The study's data: stratified training, validation and test samples, scaled and flattened."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from probekit.errors import DataError

__all__ = ["Samples", "Split", "split_arrays"]

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Scaled samples: x (n, features) float32, y (n,) int64 class codes.

    `index` (n,) int64 is each sample's row in the arrays that it was taken from.
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
    """The samples to train on, to choose by, and to report on; `class_names` in the order of the codes."""

    train: Samples
    validation: Samples
    test: Samples
    class_names: tuple[str, ...]

    @property
    def features(self) -> int:
        """How many inputs a network has."""
        return self.train.x.shape[1]

    @property
    def classes(self) -> int:
        """How many outputs a network has."""
        return len(self.class_names)

    @cached_property
    def digest(self) -> str:
        """A checksum of all samples and labels, the same wherever they are."""
        digest = sha256()
        for part in self.parts:
            digest.update(part.x.cpu().numpy().data)
            digest.update(part.y.cpu().numpy().data)
        return digest.hexdigest()

    @property
    def parts(self) -> tuple[Samples, Samples, Samples]:
        """The training, validation and test samples, in this order."""
        return self.train, self.validation, self.test

    def to(self, device: torch.device | str) -> Split:
        """The same split on `device`, where a training then runs."""
        train, validation, test = (part.to(device) for part in self.parts)
        return Split(train, validation, test, self.class_names)


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
) -> Split:
    """Training, validation and test samples with the classes in equal shares, scaled by the training samples.

    Args:
        x: features (n, features), or images (n, height, width), (n, height, width, channel) or
            (n, channel, height, width), told apart by which side is shorter; any real numbers.
        y: class codes (n,), from 0 to one less than the number of `class_names`.
        class_names: the classes in the order of their codes.
        x_test, y_test: the test set where the data come with one; without it, `test_size` of x and y is held out.
        validation_size, test_size: a fraction, or a number of samples. A validation fraction is of what the
            test set leaves.
        seed: of the split alone, so that trainings with different seeds share it.

    Scaling subtracts the mean and divides by the standard deviation, over the training samples (validation
    excluded), of each channel; without a channel axis, of all values together. Images are flattened in the
    order of their axes.

    Raises:
        DataError: arrays that don't fit together, or too few samples to have each class in every part.

    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits()
    >>> split = split_arrays(digits.images, digits.target, tuple("0123456789"))
    >>> len(split.train), len(split.validation), len(split.test)
    (1221, 216, 360)
    """
    _check(x, y, class_names, "training")
    if (x_test is None) != (y_test is None):
        raise DataError("A test set needs both x_test and y_test: give both, or neither to hold out a part of x.")
    if x_test is None or y_test is None:
        rest, test_rows = _hold_out(np.arange(len(y)), y, test_size, seed, "test")
        x_test, y_test = x, y
    else:
        _check(x_test, y_test, class_names, "test")
        rest, test_rows = np.arange(len(y)), np.arange(len(y_test))
    if x_test.shape[1:] != x.shape[1:]:
        raise DataError(f"A test sample has shape {x_test.shape[1:]} and a training sample {x.shape[1:]}.")
    train_rows, validation_rows = _hold_out(rest, y, validation_size, seed, "validation")
    mean, deviation = _scaling(x[train_rows])

    def samples(source: Array, codes: Array, rows: Array) -> Samples:
        scaled = (source[rows].astype(np.float32) - mean) / deviation
        flat = torch.from_numpy(scaled.reshape(len(rows), -1))
        return Samples(flat, torch.from_numpy(codes[rows].astype(np.int64)), torch.from_numpy(rows))

    train, validation = samples(x, y, train_rows), samples(x, y, validation_rows)
    return Split(train, validation, samples(x_test, y_test, test_rows), class_names)


def _check(x: Array, y: Array, class_names: tuple[str, ...], part: str) -> None:
    """Raise unless x and y are samples and their codes."""
    if x.ndim not in (2, 3, 4) or y.shape != x.shape[:1]:
        raise DataError(
            f"The {part} samples have shape {x.shape} and their labels {y.shape}; expected (n, features) or images "
            "of two or three axes each, and one label a sample."
        )
    if not np.issubdtype(y.dtype, np.integer) or (len(y) and (y.min() < 0 or y.max() >= len(class_names))):
        found = f"{y.dtype} from {y.min()} to {y.max()}" if len(y) else str(y.dtype)
        raise DataError(
            f"The {part} labels are {found}; expected integer codes from 0 to {len(class_names) - 1}, one for each of "
            f"the {len(class_names)} class names."
        )
    if not np.isfinite(x).all():
        raise DataError(f"The {part} samples hold values that are not finite; remove or fill them first.")


def _hold_out(rows: Array, y: Array, size: int | float, seed: int, part: str) -> tuple[Array, Array]:
    """`rows` without a stratified part, and that part, both in ascending order."""
    try:
        rest, held = train_test_split(rows, test_size=size, random_state=seed, stratify=y[rows])
    except ValueError as error:
        raise DataError(f"Can't hold out a {part} set of {size} from {len(rows)} samples: {error}") from error
    return np.sort(rest), np.sort(held)


def _scaling(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each channel, shaped to broadcast against a batch of samples."""
    channel = None if x.ndim < 4 else (1 if x.shape[1] < x.shape[3] else 3)
    axes = tuple(axis for axis in range(x.ndim) if axis != channel)
    mean = x.mean(axes, keepdims=True, dtype=np.float64)
    deviation = x.std(axes, keepdims=True, dtype=np.float64)
    if not deviation.all():
        raise DataError("A channel has the same value in every training sample, so it can't be scaled; drop it.")
    return mean.astype(np.float32), deviation.astype(np.float32)
