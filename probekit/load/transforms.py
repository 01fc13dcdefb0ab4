"""What is done to an image before a model sees it: the transform, and how it is told in words and as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from probekit.errors import DataError, near
from probekit.load.factories import made
from probekit.load.packages import torchvision_module

__all__ = ["DEFAULT_SIDE", "ImageTransform", "as_transform", "image_transform", "standard"]

DEFAULT_SIDE = 224  # pixels, the size of the images that most models are trained on

# Mean and standard deviation of each channel of the training images, in the values that networks are usually given.
NORMALS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
}


@dataclass(frozen=True)
class ImageTransform:
    """A `function` of a Pillow image that gives a model's input: a tensor, or a dict of tensors by keyword.

    `words` and `steps`, which JSON can hold, say what it does. With `rgb`, it takes images of three channels.
    """

    function: Callable[[Any], Any]
    words: str
    steps: Mapping[str, Any]
    rgb: bool = False

    def __call__(self, image: Image.Image) -> Any:
        return self.function(image.convert("RGB") if self.rgb and image.mode not in ("RGB", "F") else image)

    @property
    def facts(self) -> dict[str, Any]:
        """The attributes of a store that say it."""
        return {"preprocessing": self.words, "preprocessing_steps": dict(self.steps)}


def as_transform(given: Any) -> ImageTransform:
    """A transform of the user's own, a callable of a Pillow image."""
    if isinstance(given, ImageTransform):
        return given
    if not callable(given):
        raise DataError(
            f"preprocess is {given!r}, a {type(given).__name__}. Give what load.preprocess returns, or a callable that "
            "takes a Pillow image and returns a tensor.",
            arguments=("preprocess",),
        )
    words = " ".join(re.sub(r" at 0x[0-9a-f]+", "", repr(given)).split())
    return ImageTransform(given, words, {"transform": words})


def image_transform(
    name: str | None = None, *, resize: int | Sequence[int] | None = None, normalize: str | None = None
) -> ImageTransform:
    """A transform of images for `load.dataset`: one of your own, or the usual one.

    Args:
        name: ``file.py:factory`` or ``package.module:factory`` of a function that returns a transform, a callable that
            makes a tensor of a Pillow image.
        resize: the length of the shorter side, whose square centre is kept; a pair (height, width), to which images are
            stretched; or None to keep their size.
        normalize: ``"imagenet"``, ``"cifar10"`` or ``"mnist"``, whose mean and standard deviation of each channel are
            taken, or these as ``"0.49,0.48,0.45/0.25,0.24,0.26"``; None leaves values from 0 to 1.

    Raises:
        DataError: there is no such factory or data set, or no such size.

    Example:
        >>> image_transform(resize=32, normalize="cifar10").steps["normalize"]["mean"]
        [0.4914, 0.4822, 0.4465]
    """
    return standard(resize, normalize) if name is None else _from_factory(name)


def _from_factory(name: str) -> ImageTransform:
    function = made(name, (), DataError)
    if not callable(function):
        raise DataError(
            f"{name!r} returned a {type(function).__name__}. It has to return a transform: a callable that takes a "
            "Pillow image and returns a tensor.",
            arguments=("transform",),
        )
    own = as_transform(function)
    return ImageTransform(own.function, f"{own.words} of {name}", {**own.steps, "from": name})


def standard(resize: int | Sequence[int] | None, normalize: str | None) -> ImageTransform:
    """The usual transform: resized, to values from 0 to 1, and normalised, as `image_transform` says."""
    transforms = torchvision_module("transforms", DataError)
    steps: list[Any] = []
    words: list[str] = []
    if resize is not None:
        sides = [resize] if isinstance(resize, int) else list(resize)
        _check_sides(sides)
        steps.append(transforms.Resize(sides[0] if len(sides) == 1 else sides))
        if len(sides) == 1:
            steps.append(transforms.CenterCrop(sides[0]))
            words.append(f"shorter side resized to {sides[0]} (bilinear, antialiased), its centre cut out")
        else:
            words.append(f"stretched to {sides[0]} x {sides[1]} (bilinear, antialiased)")
    steps.append(transforms.ToTensor())
    words.append("values from 0 to 1")
    told: dict[str, Any] = {"resize": resize, "values": [0, 1], "normalize": None}
    if normalize is None:
        words.append("not normalised")
    else:
        mean, deviation = _statistics(normalize)
        steps.append(transforms.Normalize(mean, deviation))
        words.append(f"normalised by mean {_listed(mean)} and standard deviation {_listed(deviation)}")
        told["normalize"] = {"mean": list(mean), "std": list(deviation)}
    return ImageTransform(transforms.Compose(steps), "; ".join(words), told)


def _check_sides(sides: Sequence[Any]) -> None:
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and 0 < side <= 2**14 for side in sides):
        raise DataError(
            f"resize is {sides if len(sides) > 1 else sides[0]!r}. Give the length of the shorter side in pixels, or a "
            "pair (height, width).",
            arguments=("resize",),
        )


def _statistics(given: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, by the name of a data set or as ``M1,M2,M3/S1,S2,S3``."""
    if given in NORMALS:
        return NORMALS[given]
    mean, slash, deviation = given.partition("/")
    try:
        found = tuple(tuple(map(float, part.split(","))) for part in (mean, deviation))
    except ValueError:
        found = ()
    if not slash or len(found) != 2 or len(found[0]) != len(found[1]) or not all(value > 0 for value in found[1]):
        raise DataError(
            f"normalize is {given!r}. Name the data set whose statistics to use, {', '.join(NORMALS)}, or give the "
            f"mean and the standard deviation of each channel: 0.49,0.48,0.45/0.25,0.24,0.26.{near(given, NORMALS)}",
            arguments=("normalize",),
        )
    return found[0], found[1]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
