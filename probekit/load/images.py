"""A folder of images as a torch data set: which of its files are samples, and what the values of an image are."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from probekit._files import local_path
from probekit.errors import DataError
from probekit.load.limits import Limit
from probekit.load.packages import torchvision_module
from probekit.load.transforms import DEFAULT_SIDE, ImageTransform, standard

__all__ = ["FOLDER", "ImageFolder", "default_transform", "labelled", "transformed"]

FOLDER = "imagefolder:"
SPLIT_FOLDERS = {"train", "test", "val", "valid", "validation"}

_BITS_PER_SAMPLE = 258  # a tag of TIFF
_SHOWN = 5  # files that a warning names


class ImageFolder(Dataset[tuple[Any, int]]):
    """The images under `root`, with one folder per class, as (x, label): sorted by class, then by file name.

    x is what `transform` makes of the image, or by default float32 RGB (3, 224, 224): the shorter side is resized to
    224 (bilinear, antialiased), the centre is cut out, and values go from 0 to 1. A transform that gives a dict of
    tensors makes an item a dict of inputs by keyword, with the key ``label``. The transform gets a Pillow image: 8-bit
    RGB, or floats of one channel, from 0 to 1 for a 16-bit file and as they are for a floating-point one. An image is
    turned upright as its EXIF orientation says. Pillow decodes each file, the first frame where there are several, when
    its sample is read.

    Hidden files and folders, whose names begin with a dot, and ``__MACOSX`` are skipped; a warning names other files
    that aren't read, because of their ending or because they lie in no folder of a class.

    `classes` are the folders' names, `targets` the labels, `paths` the files relative to `root`, in order; a capture
    keeps the paths as a column. `limit` says which samples to take.

    Raises DataError if the folder doesn't exist, it has no folders of images, or a file can't be decoded.
    """

    def __init__(self, root: Path, limit: Limit | None = None, transform: ImageTransform | None = None) -> None:
        self.root = root = local_path(root, "root")
        self._transform = default_transform() if transform is None else transform
        self.classes: list[str] = _classes(root)
        samples = _samples(root, self.classes)
        _warn_of_others(root, {file for file, _ in samples})
        rows = None if limit is None else limit.rows(len(samples), [target for _, target in samples])
        taken = samples if rows is None else [samples[row] for row in rows]
        self.targets: list[int] = [target for _, target in taken]
        self.paths = [str(Path(file).relative_to(root)) for file, _ in taken]
        self.sample_columns: dict[str, Any] = {"path": self.paths}
        if rows is not None:
            self.sample_columns["sample_id"] = rows

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        file = self.root / self.paths[index]
        x = transformed(_decoded(file), self._transform, str(file))
        return labelled(x, self.targets[index])


def default_transform() -> ImageTransform:
    """What is done to images where nothing says what belongs before the model."""
    return standard(DEFAULT_SIDE, None)


def transformed(image: Image.Image, transform: ImageTransform, what: str) -> Any:
    """What a transform makes of an image; `what` names it in errors."""
    try:
        x = transform(image)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a transform may be anyone's code
        raise DataError(
            f"The transform can't be applied to {what}, an image of mode {image.mode} and {image.width} x "
            f"{image.height} pixels: {type(error).__name__}: {error}. The transform: {transform.words}."
        ) from error
    # Of one channel, such as a 16-bit image: three equal ones, as Pillow makes of 8 bits.
    return x.expand(3, -1, -1) if image.mode == "F" and isinstance(x, Tensor) and x.shape[0] == 1 else x


def labelled(x: Any, label: Any) -> Any:
    """An item of a model's input and its label: a pair, or a dict where the input is by keyword."""
    return {**x, "label": label} if isinstance(x, dict) else (x, label)


def _classes(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"There is no folder {str(root)!r}.")
    inside = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _is_hidden(entry.name))
    if "train" in inside and SPLIT_FOLDERS.issuperset(inside):
        raise DataError(
            f"{str(root)!r} has the folders {', '.join(inside)}: splits, not classes. Name one: "
            f"'{FOLDER}{root / 'train'}'."
        )
    if not inside:
        raise DataError(f"{str(root)!r} has no folders. It must have one folder of images for each class.")
    return inside


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # in which an archive of a Mac keeps what isn't the files'


def _samples(root: Path, classes: list[str]) -> list[tuple[str, int]]:
    """The files that are read, in the order of torchvision's ImageFolder, each with its label."""
    endings = torchvision_module("datasets.folder", DataError).IMG_EXTENSIONS
    found = [
        (path, code)
        for code, name in enumerate(classes)
        for path in _visible_files(root / name)
        if path.lower().endswith(endings)
    ]
    empty = [name for code, name in enumerate(classes) if code not in {label for _, label in found}]
    if empty:
        raise DataError(
            f"{str(root)!r} isn't a folder of images: there is none of the classes {', '.join(empty)}. It must have "
            f"one folder of images for each class, whose names end in {', '.join(endings)}."
        )
    return found


def _warn_of_others(root: Path, read: set[str]) -> None:
    """Warn of files that are no samples and aren't hidden."""
    others = [path for path in _visible_files(root) if path not in read]
    if others:
        named = ", ".join(repr(str(Path(path).relative_to(root))) for path in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        warnings.warn(
            f"{len(others)} of the files under {str(root)!r} are not read: {named}{more}. Samples are the images in "
            f"the classes' folders, by their endings; {len(read)} are.",
            stacklevel=4,
        )


def _visible_files(root: Path) -> Iterator[str]:
    """The files below a folder, folder by folder; links are followed, but for those back into a folder on the way."""
    for folder in sorted(_visible_folders(str(root), frozenset())):
        with os.scandir(folder) as entries:
            files = sorted(entry.name for entry in entries if not entry.is_dir() and not _is_hidden(entry.name))
        yield from (os.path.join(folder, name) for name in files)


def _visible_folders(folder: str, on_the_way: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in on_the_way:
        return
    yield folder
    with os.scandir(folder) as entries:
        inside = [entry.path for entry in entries if entry.is_dir() and not _is_hidden(entry.name)]
    for path in inside:
        yield from _visible_folders(path, on_the_way | {real})


def _decoded(file: Path) -> Image.Image:
    """The image in a file, upright: in 8-bit RGB, or with one channel of floats."""
    try:
        with Image.open(file) as image:
            _check_shape(image)
            white = _white(image, file)
            upright = ImageOps.exif_transpose(image)
            if white is None:
                return upright.convert("RGB")
            return Image.fromarray(np.asarray(upright, np.float32) / np.float32(white))
    except DataError:
        raise
    except Exception as error:  # a decoder that meets damaged or hostile bytes may raise anything
        raise DataError(
            f"{str(file)!r} can't be decoded as an image: {error or type(error).__name__}. Mend or remove it."
        ) from error


def _check_shape(image: Image.Image) -> None:
    """Raise Pillow's own error for an image so narrow that it takes as much memory as a bomb once it is resized."""
    pixels, most = DEFAULT_SIDE**2 * max(image.size) // max(1, min(image.size)), Image.MAX_IMAGE_PIXELS
    if most is not None and pixels > 2 * most:
        width, height = image.size
        raise Image.DecompressionBombError(f"it has {width} x {height} pixels, and {pixels} once it is resized")


def _white(image: Image.Image, file: Path) -> float | None:
    """The value that becomes 1 where an image has more than 8 bits and one channel; None for all that Pillow scales."""
    if image.mode == "F":
        return 1.0
    if image.mode.startswith("I;16"):
        (bits, *_) = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
        return float(2**bits - 1)
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # where they are of 16 bits
        return 65535.0
    if image.mode == "I":
        raise DataError(
            f"{str(file)!r} holds 32-bit or signed integers, of which nothing says which is white. Convert it to 8 or "
            "16 bits, or to floats."
        )
    return None
