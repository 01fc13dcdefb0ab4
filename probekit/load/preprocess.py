"""What belongs before a model: the transform of its images, the tokenizer of its texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from PIL import Image

from probekit._provenance import remember
from probekit.errors import DataError, ModelError, check_kind
from probekit.load.hugging_face import processor_of
from probekit.load.models import FORMS
from probekit.load.open_clip_models import open_clip_transform
from probekit.load.timm_models import timm_transform
from probekit.load.tokenizer import Tokenizer
from probekit.load.torchvision_models import torchvision_transform
from probekit.load.transforms import ImageTransform, as_transform

__all__ = ["Preprocess", "preprocess", "texts_of", "transform_of"]


class Preprocess:
    """What belongs before the model of a name: `images` is the transform of its images, `texts` its tokenizer.

    Raises DataError if the model takes no images, or no texts.
    """

    def __init__(self, name: str, images: ImageTransform | None = None) -> None:
        self.name = name
        self._images = images

    def __repr__(self) -> str:
        return f"Preprocess({self.name!r})"

    @cached_property
    def images(self) -> ImageTransform:
        if self._images is not None:
            return self._images
        return _of_processor(self._processor("AutoImageProcessor"), self.name)

    @cached_property
    def texts(self) -> Tokenizer:
        if self._images is not None:
            raise DataError(f"{self.name!r} comes with a transform of images and no tokenizer, so it takes no texts.")
        return Tokenizer(self._processor("AutoTokenizer"), self.name)

    def _processor(self, kind: str) -> Any:
        try:
            return processor_of(self.name.removeprefix("hf:"), kind)
        except ModelError as error:
            raise DataError(str(error)) from error


_TRANSFORMS: dict[str, Callable[[str], ImageTransform | None]] = {
    "torchvision": torchvision_transform,
    "timm": timm_transform,
    "open_clip": open_clip_transform,
}


def preprocess(name: str) -> Preprocess | None:
    """What belongs before the model that a name stands for, as `load.model` takes it, for `load.dataset`.

    The transform of torchvision's weights, timm's data config of a tag, open_clip's of a tag, or the image processor
    and the tokenizer that a model of transformers is saved with. None for random weights and for a factory of your own,
    which come with nothing: give `load.dataset` a transform.

    Raises ModelError if there are no such model or weights.

    >>> preprocess("torchvision:resnet18@DEFAULT").images.steps["resize_size"]
    [256]
    >>> preprocess("torchvision:resnet18") is None
    True
    """
    check_kind("name", name, str, FORMS, ModelError)
    library, _, named = name.partition(":")
    if library == "hf":
        return None if named.endswith("@random") else _remembered(Preprocess(name))
    images = _TRANSFORMS[library](named) if library in _TRANSFORMS else None
    return None if images is None else _remembered(Preprocess(name, images))


def _remembered(made: Preprocess) -> Preprocess:
    remember(made, f"probekit.load.preprocess({made.name!r})", {})
    return made


def transform_of(given: Any, default: ImageTransform) -> ImageTransform:
    """The transform that a user's `preprocess` means for images; the `default` where that is None."""
    if given is None:
        return default
    return given.images if isinstance(given, Preprocess) else as_transform(given)


def texts_of(given: Any) -> Tokenizer:
    """The tokenizer that a user's `preprocess` means for texts.

    Raises DataError if it means none.
    """
    if isinstance(given, Preprocess):
        return given.texts
    if isinstance(given, Tokenizer):
        return given
    if hasattr(given, "convert_ids_to_tokens"):
        return Tokenizer(given, type(given).__name__)
    raise DataError(
        f"Texts need the model's tokenizer, and preprocess is {given!r}. Give load.preprocess('hf:FOLDER'), or a "
        "tokenizer of transformers'. Random weights and factories of your own come with none: on the command line, "
        "name a saved model's with --tokenizer.",
        arguments=("preprocess", "tokenizer"),
    )


def _of_processor(processor: Any, name: str) -> ImageTransform:
    """The transform of transformers' image processor, which gives inputs by keyword."""

    def function(image: Image.Image) -> dict[str, Any]:
        return {key: values[0] for key, values in processor(images=image, return_tensors="pt").items()}

    told = {key: value for key, value in processor.to_dict().items() if _is_plain(value)}
    return ImageTransform(
        function, f"{type(processor).__name__} of {name}", {"transform": type(processor).__name__, **told}, rgb=True
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | str | bool)
