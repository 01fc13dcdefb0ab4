"""Models of torchvision: ``torchvision:resnet18``, ``torchvision:resnet18@DEFAULT``."""

from __future__ import annotations

import inspect
from enum import Enum
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from probekit.errors import ModelError, near
from probekit.load.packages import installed, torchvision_module
from probekit.load.transforms import ImageTransform

__all__ = ["torchvision_model", "torchvision_transform"]


def torchvision_model(name: str) -> tuple[nn.Module, str | None]:
    """The model, and which weights it has; None for random ones."""
    models = torchvision_module("models", ModelError)
    plain, weights = _weights(name)
    builder = models.get_model_builder(plain)
    if weights is not None:
        _check_file(name, weights)
        return _module(builder(weights=weights)), f"{weights.name} of torchvision ({_file(weights).name})"
    # Detection and segmentation models would download a backbone's weights unless told not to.
    parameters = inspect.signature(builder).parameters
    return _module(builder(**{key: None for key in parameters if key.startswith("weights")})), None


def torchvision_transform(name: str) -> ImageTransform | None:
    """The transform that the weights come with; None for random ones."""
    _, weights = _weights(name)
    if weights is None:
        return None
    preset = weights.transforms()
    own = {key: value for key, value in vars(preset).items() if not key.startswith("_") and key != "training"}
    steps = {key: value.value if isinstance(value, Enum) else value for key, value in own.items()}
    steps = {key: value for key, value in steps.items() if isinstance(value, int | float | str | list | bool)}
    words = f"{' '.join(repr(preset).split())} of the weights {weights.name}"
    return ImageTransform(preset, words, {"transform": type(preset).__name__, **steps}, rgb=True)


def _weights(name: str) -> tuple[str, Any]:
    """The plain name of a model, and the member of its weights' enum that is asked for, if one is."""
    models = torchvision_module("models", ModelError)
    plain, at, tag = name.partition("@")
    known = models.list_models()
    if plain not in known:
        raise ModelError(
            f"torchvision {installed('torchvision')} has no model {plain!r} among its {len(known)}."
            f"{near(plain, known)} List them with torchvision.models.list_models()."
        )
    if not at:
        return plain, None
    found = models.get_model_weights(plain)
    tags = [*found.__members__]
    if tag not in tags:
        there = ", ".join(["DEFAULT", *(each for each in tags if each != "DEFAULT")]) if tags else "none"
        raise ModelError(
            f"torchvision has no weights {tag!r} of {plain}; there are: {there}. 'torchvision:{plain}' has random ones."
            f"{near(tag, tags)}"
        )
    return plain, found[tag]


def _file(weights: Any) -> Path:
    """Where torch keeps a file of weights once it is downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(weights.url).path).name


def _check_file(name: str, weights: Any) -> None:
    """Have the file there, downloaded if it must be, and read without unpickling what may run code."""
    path = _file(weights)
    try:
        weights.get_state_dict(check_hash=True, weights_only=True)
    except UnpicklingError as error:
        raise ModelError(
            f"{str(path)!r} isn't a plain state dict: torch.load(weights_only=True) refuses it, and probekit never "
            "unpickles files that may run code. Remove it, to have it downloaded again."
        ) from error
    except OSError as error:  # URLError is one
        raise ModelError(
            f"The weights of 'torchvision:{name}' are the file {path.name}, which isn't in {str(path.parent)!r} and "
            f"can't be downloaded: {error}. On a machine with a network, download {weights.url} and put it there."
        ) from error
    except Exception as error:  # a decoder that meets damaged bytes may raise anything
        raise ModelError(
            f"{str(path)!r} can't be read ({type(error).__name__}: {error}). Remove it, to have it downloaded again."
        ) from error


def _module(made: object) -> nn.Module:
    assert isinstance(made, nn.Module)  # torchvision is untyped
    return made
