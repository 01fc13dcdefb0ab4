"""Data sets as arrays, by name, and as torch data sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.npyio import NpzFile
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from probekit._files import local_path
from probekit.errors import DataError, check_kind, near
from probekit.load.images import FOLDER, labelled, transformed
from probekit.load.limits import Limit
from probekit.load.packages import torchvision_module
from probekit.load.transforms import ImageTransform

__all__ = ["ArrayDataset", "Arrays", "Split", "arrays", "check_split", "data_folder", "from_npz", "read_npz"]

Array: TypeAlias = npt.NDArray[Any]
Split: TypeAlias = Literal["train", "test", "all"]

DATA_DIR = "~/.cache/probekit"
CLASS_NAMES = "class_names"
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
    """A data set in memory.

    Images are (sample, channel, y, x). Labels are int64 codes, indices into `class_names`; y is None where the samples
    have none. `targets_train` and `targets_test` are real values, where samples have these instead. `x_test` is None
    if the data have no split. `white` is the value that ``dataset`` maps to 1: 255 for uint8, 16 for digits, 1 for
    values that aren't scaled.
    """

    name: str
    x_train: Array
    y_train: npt.NDArray[np.int64] | None
    x_test: Array | None
    y_test: npt.NDArray[np.int64] | None
    class_names: tuple[str, ...]
    white: float = 1.0
    targets_train: npt.NDArray[np.float64] | None = None
    targets_test: npt.NDArray[np.float64] | None = None

    def chosen(self, split: Split) -> tuple[Array, npt.NDArray[np.int64] | None, npt.NDArray[np.float64] | None]:
        """The samples, labels and real targets of a split.

        Raises DataError if there is no such split.
        """
        check_split(self.name, split, has_test=self.x_test is not None)
        train, test = (self.x_train, self.y_train, self.targets_train), (self.x_test, self.y_test, self.targets_test)
        if split == "train" or test[0] is None:
            return train
        if split == "test":
            return self.x_test, self.y_test, self.targets_test  # type: ignore[return-value]
        x, y, targets = (
            None if one is None or other is None else np.concatenate([one, other])
            for one, other in zip(train, test, strict=True)
        )
        assert x is not None  # both splits have samples
        return x, y, targets


class ArrayDataset(Dataset[Any]):
    """A torch data set of (x, label) in the order of the arrays, or of x alone where there are no labels.

    x is float32, divided by `white`; integers other than uint8 (token ids, say) become int64 and aren't scaled. A
    `transform` gets the sample as an 8-bit Pillow image instead. `classes` and `targets` are as torchvision's;
    `sample_columns` has what a capture keeps of the samples besides, such as real targets.

    Raises DataError for a transform of what isn't an image.
    """

    def __init__(
        self,
        data: Arrays,
        split: Split = "train",
        limit: Limit | None = None,
        transform: ImageTransform | None = None,
    ) -> None:
        x, y, targets = data.chosen(split)
        rows = None if limit is None else limit.rows(len(x), y)
        taken = slice(None) if rows is None else rows
        self.classes = list(data.class_names)
        self.targets: list[int] | None = None if y is None else y[taken].tolist()
        self.sample_columns: dict[str, Any] = {} if targets is None else {"target": targets[taken]}
        if rows is not None:
            self.sample_columns["sample_id"] = rows
        self._x, self._white, self._transform = x[taken], data.white, transform
        if transform is not None and not _are_images(x, data.white):
            raise DataError(
                f"{data.name!r} holds {x.dtype} of shape {x.shape[1:]} a sample, which are no images, so the transform "
                f"of {transform.words} can't be applied. Give images as uint8, or no transform."
            )

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> Any:
        x = self._given(index) if self._transform is None else self._transformed(index, self._transform)
        return x if self.targets is None else labelled(x, self.targets[index])

    def _given(self, index: int) -> Tensor:
        x = torch.as_tensor(self._x[index])
        whole = self._x.dtype.kind in "iu" and self._x.dtype != np.uint8
        return x.to(torch.int64) if whole else x.to(torch.float32) / self._white

    def _transformed(self, index: int, transform: ImageTransform) -> Any:
        pixels = np.moveaxis(self._x[index] * (255 / self._white), 0, 2).round().astype(np.uint8)
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        return transformed(image, transform, f"sample {index}")


def _are_images(x: Array, white: float) -> bool:
    return x.ndim == 4 and x.shape[1] in (1, 3, 4) and white > 1


def data_folder(given: Path | None) -> Path:
    """The folder of data sets that are looked up by name."""
    return local_path(DATA_DIR if given is None else given, "data_dir")


def arrays(name: str, data_dir: Path | None = None) -> Arrays:
    """The arrays of the data set that a name stands for.

    `name` is one of

    - ``digits``: scikit-learn's 1,797 real 8×8 images, float32 (1797, 1, 8, 8) with values 0 to 16, without a split;
    - ``mnist``, ``cifar10``: from ``<data_dir>/<name>.npz`` if that file exists, otherwise from the files that
      torchvision keeps under `data_dir` (default ``~/.cache/probekit``); nothing is downloaded;
    - ``path/to/file.npz``: with the arrays ``x_train``, ``y_train`` and, for a test set, ``x_test``, ``y_test``; or
      with ``x`` and ``y``; and optionally with ``class_names``. y may be whole numbers from 0 up, strings, or floats,
      which are real targets; without y the samples have no labels. It is read with ``allow_pickle=False``.

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
        return _known(name, data_folder(data_dir))
    if name.endswith(".npz"):
        path = local_path(name, "name")
        return from_npz(read_npz(path), path, name)
    if name.startswith(FOLDER):
        raise DataError(f"{name!r} is read image by image and has no arrays. Load it as a data set: load.dataset.")
    if os.path.isdir(name):
        raise DataError(f"{name!r} is a folder. With a folder of images for each class in it, it's {FOLDER}{name}.")
    known = ["digits", *_KNOWN, f"{FOLDER}DIR"]
    raise DataError(
        f"{name!r} isn't a data set that probekit knows.{near(name, known)} "
        f"Name one of {', '.join(known)}, or a FILE.npz."
    )


def check_split(name: str, split: Split, *, has_test: bool) -> None:
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
        return from_npz(read_npz(file), file, name, class_names)
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


def from_npz(found: Mapping[str, Array], path: Path, name: str, class_names: tuple[str, ...] = ()) -> Arrays:
    """The data set of a file's arrays."""
    given = list(found)
    if "x" in found and "x_train" not in found:
        found = {**found, "x_train": found["x"], **({"y_train": found["y"]} if "y" in found else {})}
    others = found.keys() - {f"{letter}{split}" for letter in "xy" for split in ("", "_train", "_test")} - {CLASS_NAMES}
    if "x_train" not in found or ("y_train" not in found and others):
        raise DataError(
            f"{str(path)!r} has {', '.join(given) or 'no arrays'}. It must have x_train and y_train "
            f"(and x_test, y_test for a test set), or x and y; without labels, x alone."
        )
    if CLASS_NAMES in found:
        class_names = tuple(str(each) for each in found[CLASS_NAMES])
    return _checked(name, found, class_names)


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of a file, read without unpickling."""
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
    splits = ["train", *(["test"] if "x_test" in found else [])]
    x = {split: _samples(name, found, split) for split in splits}
    y = {split: _labels(name, found, split, x[split]) for split in splits}
    kinds = {None if labels is None else labels.dtype.kind for labels in y.values()}
    if len(kinds) > 1:
        lacking = [split for split in splits if y[split] is None]
        what = f"x_{lacking[0]} but no y_{lacking[0]}" if lacking else "labels of two kinds in its splits"
        raise DataError(f"{name!r} has {what}.")
    white = 255.0 if x["train"].dtype == np.uint8 else 1.0
    if kinds == {"f"}:
        targets = {split: None if labels is None else labels.astype(np.float64) for split, labels in y.items()}
        return Arrays(
            name, x["train"], None, x.get("test"), None, class_names, white, targets["train"], targets.get("test")
        )
    if kinds == {"U"}:
        class_names = class_names or tuple(sorted({label for labels in y.values() for label in _listed(labels)}))
        y = {split: _codes(name, labels, class_names) for split, labels in y.items()}
    classes = 1 + max((int(labels.max()) for labels in y.values() if labels is not None), default=-1)
    if class_names and classes > len(class_names):
        raise DataError(f"The labels of {name!r} go up to {classes - 1}, but there are {len(class_names)} class names.")
    names = class_names or tuple(str(code) for code in range(classes))
    return Arrays(name, x["train"], y["train"], x.get("test"), y.get("test"), names, white)


def _listed(labels: Array | None) -> list[str]:
    return [] if labels is None else labels.tolist()


def _codes(name: str, labels: Array | None, class_names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """The codes of labels that are strings."""
    codes = {class_name: code for code, class_name in enumerate(class_names)}
    strange = [label for label in _listed(labels) if label not in codes]
    if strange:
        raise DataError(f"{name!r} has the label {strange[0]!r}, which is not among its class names.")
    return np.array([codes[label] for label in _listed(labels)], np.int64)


def _samples(name: str, found: Mapping[str, Array], split: str) -> Array:
    x = found[f"x_{split}"]
    if x.dtype.kind not in "fiub" or x.ndim == 0 or len(x) == 0:
        raise DataError(
            f"x_{split} of {name!r} has dtype {x.dtype} and shape {x.shape}. Samples must be numbers, at least one."
        )
    return _channel_first(x) if x.dtype == np.uint8 else x


def _labels(name: str, found: Mapping[str, Array], split: str, x: Array) -> Array | None:
    """The labels of a split: codes as int64, strings, or floats, which are real targets; None where it has none."""
    y = found.get(f"y_{split}")
    if y is None:
        return None
    if y.ndim != 1 or y.dtype.kind not in "iuUf" or len(y) != len(x) or (y.dtype.kind in "iu" and y.min() < 0):
        raise DataError(
            f"{name!r} has x_{split} {x.shape} and y_{split} {y.shape} of {y.dtype}. Give one label for each sample: "
            "whole numbers from 0 up, strings, or floats for real targets."
        )
    return y.astype(np.int64) if y.dtype.kind in "iu" else y


def _channel_first(images: Array) -> Array:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        return np.moveaxis(images, 3, 1)
    return images
