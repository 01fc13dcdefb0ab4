"""Data sets by name, as arrays and as torch data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor
from torch.utils.data import Dataset

from probekit._files import local_path
from probekit.errors import DataError, check_kind, near
from probekit.load.images import FOLDER, ImageFolder
from probekit.load.keywords import KeywordDataset, holds_keywords
from probekit.load.packages import torchvision_module

__all__ = ["ArrayDataset", "Arrays", "Split", "arrays", "dataset"]

Array: TypeAlias = npt.NDArray[Any]
Split: TypeAlias = Literal["train", "test", "all"]

DATA_DIR = "~/.cache/probekit"
# name -> torchvision's class, class names
_KNOWN: dict[str, tuple[str, tuple[str, ...]]] = {
    "mnist": ("MNIST", tuple("0123456789")),
    "cifar10": (
        "CIFAR10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
}


@dataclass(frozen=True, eq=False)
class Arrays:
    """A labelled data set in memory.

    Images are (sample, channel, y, x). Labels are int64 codes, indices into `class_names`. `x_test` and `y_test` are
    None if the data have no split. `white` is the value that ``dataset`` maps to 1: 255 for uint8, 16 for digits, 1 for
    values that aren't scaled.
    """

    name: str
    x_train: Array
    y_train: npt.NDArray[np.int64]
    x_test: Array | None
    y_test: npt.NDArray[np.int64] | None
    class_names: tuple[str, ...]
    white: float = 1.0


class ArrayDataset(Dataset[tuple[Tensor, int]]):
    """A torch data set of (x, label) in the order of the arrays, with torchvision's `classes` and `targets`.

    x is float32, divided by `white`; integers other than uint8 (token ids, say) become int64 and aren't scaled.
    """

    def __init__(self, x: Array, y: npt.NDArray[np.int64], classes: tuple[str, ...], white: float = 1.0) -> None:
        self.classes = list(classes)
        self.targets = y.tolist()
        self._x = x
        self._white = white

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = torch.as_tensor(self._x[index])
        whole = self._x.dtype.kind in "iu" and self._x.dtype != np.uint8
        return (x.to(torch.int64) if whole else x.to(torch.float32) / self._white), self.targets[index]


def arrays(name: str, data_dir: Path | None = None) -> Arrays:
    """The arrays of the data set that a name stands for.

    `name` is one of

    - ``digits``: scikit-learn's 1,797 real 8×8 images, float32 (1797, 1, 8, 8) with values 0 to 16, without a split;
    - ``mnist``, ``cifar10``: from ``<data_dir>/<name>.npz`` if that file exists, otherwise from the files that
      torchvision keeps under `data_dir` (default ``~/.cache/probekit``); nothing is downloaded;
    - ``path/to/file.npz``: with the arrays ``x_train``, ``y_train`` and, for a test set, ``x_test``, ``y_test``; or
      with ``x`` and ``y``; and optionally with ``class_names``. It is read with ``allow_pickle=False``.

    uint8 arrays are treated as images: (sample, y, x) gets a channel axis, and channels at the end (1, 3 or 4 of them)
    move to the front.

    Raises DataError if the name doesn't stand for a data set, files are missing, or labels and samples don't match.

    >>> arrays("digits").x_train.shape
    (1797, 1, 8, 8)
    """
    check_kind("name", name, str, "the name of a data set")
    if name == "digits":
        return _digits()
    if name in _KNOWN:
        return _known(name, local_path(DATA_DIR if data_dir is None else data_dir, "data_dir"))
    if name.endswith(".npz"):
        path = local_path(name, "name")
        return _from_npz(_read_npz(path), path, name)
    if name.startswith(FOLDER):
        raise DataError(f"{name!r} is read image by image and has no arrays. Load it as a data set: load.dataset.")
    known = ["digits", *_KNOWN, f"{FOLDER}DIR"]
    raise DataError(
        f"{name!r} isn't a data set that probekit knows.{near(name, known)} "
        f"Name one of {', '.join(known)}, or a FILE.npz."
    )


def dataset(
    name: str, split: Split = "train", *, limit: int | None = None, data_dir: Path | None = None
) -> ArrayDataset | ImageFolder | KeywordDataset:
    """The torch data set that a name stands for: (x, label) in order, x float32, uint8 images and digits in [0, 1].

    `name` and `data_dir` are those of ``arrays``; or `name` is

    - ``imagefolder:DIR``, a folder with one folder of images per class, which gives an ``ImageFolder``;
    - a ``file.npz`` of keyword inputs, which gives a ``KeywordDataset`` of dicts. The file has arrays with the names of
      the arguments of the model's forward, such as ``input_ids``, ``attention_mask`` or ``pixel_values``, with a row
      for each sample; ``label`` (or ``labels``), whole numbers from 0 up or strings; and optionally ``sample_id`` and
      ``class_names``. Integers become int64 and floats float32; such a file has no split. A file with ``x`` or
      ``x_train`` is read as ``arrays`` describes.

    `split` is ``"train"`` (everything, if the data have no split), ``"test"`` or ``"all"`` (train, then test); `limit`
    keeps the first samples only.

    Raises DataError as ``arrays`` does, and for a missing split.

    >>> digits = dataset("digits", limit=100)
    >>> len(digits), digits[0][0].shape, digits.classes[:3]
    (100, torch.Size([1, 8, 8]), ['0', '1', '2'])
    """
    check_kind("name", name, str, "the name of a data set")
    check_kind("limit", limit, (Integral, NoneType), "a number of samples, or None for all")
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit} leaves no samples of {name!r}. Give 1 or more, or leave it out.")
    if name.startswith(FOLDER):
        _check_split(name, split, has_test=False)
        return ImageFolder(local_path(name.removeprefix(FOLDER), "name"), limit)
    if name.endswith(".npz"):
        path = local_path(name, "name")
        found = _read_npz(path)
        if holds_keywords(found):
            _check_split(name, split, has_test=False)
            return KeywordDataset(name, found, limit)
        data = _from_npz(found, path, name)
    else:
        data = arrays(name, data_dir)
    x, y = _chosen(data, split)
    return ArrayDataset(x[:limit], y[:limit], data.class_names, data.white)


def _chosen(data: Arrays, split: Split) -> tuple[Array, npt.NDArray[np.int64]]:
    _check_split(data.name, split, has_test=data.x_test is not None)
    if split == "train" or data.x_test is None or data.y_test is None:
        return data.x_train, data.y_train
    if split == "test":
        return data.x_test, data.y_test
    return np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])


def _check_split(name: str, split: Split, *, has_test: bool) -> None:
    if not isinstance(split, str) or split not in get_args(Split):
        raise DataError(f"There is no split {split!r}. Choose train, test or all.")
    if split == "test" and not has_test:
        raise DataError(f"{name!r} has no test set. Ask for split 'train' or 'all', which has every sample.")


def _digits() -> Arrays:
    from sklearn.datasets import load_digits  # slow to import, and only this data set needs it

    digits = load_digits()
    x = digits.images[:, None].astype(np.float32)
    names = tuple(str(name) for name in digits.target_names)
    return Arrays("digits", x, digits.target.astype(np.int64), None, None, names, white=16.0)


def _known(name: str, data_dir: Path) -> Arrays:
    class_name, class_names = _KNOWN[name]
    file = data_dir / f"{name}.npz"
    if file.is_file():
        return _from_npz(_read_npz(file), file, name, class_names)
    make = getattr(torchvision_module("datasets", DataError), class_name)
    try:
        train, test = make(data_dir, train=True), make(data_dir, train=False)
    except (RuntimeError, ValueError, OSError) as error:
        fetch = f"from torchvision.datasets import {class_name}; {class_name}({str(data_dir)!r}, download=True)"
        raise DataError(
            f"{name!r} isn't in {str(data_dir)!r}: there is neither {file.name} (arrays x_train, y_train, x_test, "
            f"y_test) nor torchvision's files ({error}). Put the file there, name another folder, or download the "
            f'data once: `python -c "{fetch}"`.'
        ) from error
    found = {
        "x_train": np.asarray(train.data),
        "y_train": np.asarray(train.targets),
        "x_test": np.asarray(test.data),
        "y_test": np.asarray(test.targets),
    }
    return _checked(name, found, class_names)


def _from_npz(found: Mapping[str, Array], path: Path, name: str, class_names: tuple[str, ...] = ()) -> Arrays:
    if "x" in found and "y" in found and "x_train" not in found:
        found = {**found, "x_train": found["x"], "y_train": found["y"]}
    if "x_train" not in found or "y_train" not in found:
        raise DataError(
            f"{str(path)!r} has {', '.join(found) or 'no arrays'}. It must have x_train and y_train "
            f"(and x_test, y_test for a test set), or x and y."
        )
    if "class_names" in found:
        class_names = tuple(str(each) for each in found["class_names"])
    return _checked(name, found, class_names)


def _read_npz(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise DataError(f"There is no file {str(path)!r}.")
    try:
        with path.open("rb") as raw, NpzFile(raw, allow_pickle=False) as file:
            return {key: _native(file[key]) for key in file.files}
    except Exception as error:  # a decoder that meets damaged bytes may raise anything
        raise DataError(
            f"{str(path)!r} can't be read as an .npz file of plain arrays (none that need pickle): "
            f"{error or type(error).__name__}"
        ) from error


def _native(array: Array) -> Array:
    """The array in the byte order of this machine, the only one that torch takes."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _checked(name: str, found: Mapping[str, Array], class_names: tuple[str, ...]) -> Arrays:
    x_train, y_train = _pair(name, found, "train")
    x_test, y_test = _pair(name, found, "test") if "x_test" in found else (None, None)
    classes = 1 + int(max(y.max() for y in (y_train, y_test) if y is not None))
    if class_names and classes > len(class_names):
        raise DataError(f"The labels of {name!r} go up to {classes - 1}, but there are {len(class_names)} class names.")
    names = class_names or tuple(str(code) for code in range(classes))
    white = 255.0 if x_train.dtype == np.uint8 else 1.0
    return Arrays(name, x_train, y_train, x_test, y_test, names, white)


def _pair(name: str, found: Mapping[str, Array], split: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """The samples and labels of a split, which must fit together."""
    x, y = found[f"x_{split}"], found.get(f"y_{split}")
    if y is None:
        raise DataError(f"{name!r} has x_{split} but no y_{split}.")
    if x.dtype.kind not in "fiub":
        raise DataError(f"x_{split} of {name!r} has dtype {x.dtype}. Samples must be numbers.")
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) != len(x) or len(y) == 0 or y.min() < 0:
        raise DataError(
            f"{name!r} has x_{split} {x.shape} and y_{split} {y.shape} of {y.dtype}. Labels must be whole numbers from "
            f"0 up, one for each sample, and at least one."
        )
    return (_channel_first(x) if x.dtype == np.uint8 else x), y.astype(np.int64)


def _channel_first(images: Array) -> Array:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        return np.moveaxis(images, 3, 1)
    return images
