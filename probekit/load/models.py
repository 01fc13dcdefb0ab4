"""Models by name, and their weights from files."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from probekit._files import local_path
from probekit._provenance import call_of, remember
from probekit.errors import ModelError, check_kind
from probekit.load.factories import few, is_factory, made
from probekit.load.hugging_face import hugging_face
from probekit.load.open_clip_models import open_clip_model
from probekit.load.timm_models import timm_model
from probekit.load.torchvision_models import torchvision_model

__all__ = ["model"]

FORMS = "torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER, open_clip:NAME, package.module:factory or file.py:factory"
# What each gives for the name after the colon: a model, and which weights it has, None for random ones.
_LIBRARIES: dict[str, Callable[[str], tuple[nn.Module, str | None]]] = {
    "torchvision": torchvision_model,
    "timm": timm_model,
    "hf": hugging_face,
    "open_clip": open_clip_model,
}


def model(name: str, *, weights: Path | None = None, seed: int = 0) -> nn.Module:
    """The model that a name stands for, with its pretrained weights, with random ones, or with `weights` from a file.

    `name` is one of

    - ``torchvision:resnet18@DEFAULT``, ``torchvision:resnet18@IMAGENET1K_V1``: a model of torchvision with these
      weights of its own;
    - ``timm:vit_tiny_patch16_224.augreg_in21k``: a model of timm with the weights of this tag;
    - ``open_clip:ViT-B-32@laion2b_s34b_b79k``: a model of open_clip with the weights of this tag;
    - ``hf:FOLDER`` (written by ``save_pretrained``) or ``hf:openai-community/gpt2`` (a name on the Hugging Face Hub):
      the saved model with its weights, of the class that its config names; ``hf:FOLDER+adapter:FOLDER`` with an adapter
      of peft's. Code that comes with a model is never run;
    - any of these without the weights, ``torchvision:resnet18``, ``timm:vit_tiny_patch16_224``, ``open_clip:ViT-B-32``,
      ``hf:FOLDER@random`` or by model type ``hf:gpt2@random``: random weights drawn under `seed`;
    - ``package.module:factory`` or ``folder/file.py:factory``: the model that the function or class `factory` returns
      when it is called without arguments (or the model of that name). This runs the module or file. A file can import
      the modules in its folder, as under ``python file.py``.

    Files of weights come from the caches of these libraries, or are downloaded by them with their checks.

    `weights` is a file with a state dict: ``.safetensors``, or another file that ``torch.load(weights_only=True)``
    reads. torch's global generators don't change. A store tells which model and weights it is of. `load.preprocess`
    gives what belongs before the model.

    Raises ModelError if the name doesn't stand for a model, its package can't be imported, a file of weights is missing
    and can't be downloaded, the factory fails, or the weights don't fit the model.

    >>> type(model("torchvision:resnet18")).__name__
    'ResNet'
    """
    call = call_of(model, locals())
    check_kind("name", name, str, FORMS, ModelError)
    library, _, named = name.partition(":")
    with _seeded(seed):
        if library in _LIBRARIES:
            net, whose = _LIBRARIES[library](named)
            whose = whose or f"random, seed {seed}"
        elif is_factory(name):
            net, whose = _from_factory(name), f"those that {name} gives"
        else:
            raise ModelError(f"{name!r} doesn't say where the model comes from. Name it as {FORMS}.")
    if weights is not None:
        _load_weights(net, local_path(weights, "weights", ModelError), name)
        whose = f"the file {weights}"
    remember(net, call, {"model_name": name, "weights_from": whose})
    return net


def _from_factory(name: str) -> nn.Module:
    net = made(name, nn.Module, ModelError)
    if not isinstance(net, nn.Module):
        raise ModelError(f"'{name}' returned a {type(net).__name__}, not a torch.nn.Module.")
    return net


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # Reading the state of a CUDA device would start CUDA, so states are kept only if CUDA is already in use.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _load_weights(made: nn.Module, path: Path, name: str) -> None:
    state = _state_dict(path)
    try:
        made.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{str(path)!r} doesn't fit {name!r}: {_misfit(made, state) or error}.") from error


def _misfit(made: nn.Module, state: Mapping[str, Tensor]) -> str:
    """The differences of a state dict from the model's: missing names, unexpected names, other shapes."""
    own = made.state_dict()
    missing = [repr(key) for key in own if key not in state]
    unexpected = [repr(key) for key in state if key not in own]
    reshaped = [
        f"{key!r} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    differences = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(f"{len(keys)} {what} ({few(keys, 3)})" for what, keys in differences.items() if keys)


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"There is no weights file {str(path)!r}.")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values()):
        return state
    content = f"a dict of {few(map(repr, state))}" if isinstance(state, Mapping) else type(state).__name__
    raise ModelError(
        f"{str(path)!r} contains {content}, not a state dict (names and tensors). Save the state dict by itself: "
        f"torch.save(model.state_dict(), {path.name!r})."
    )


def _read_safetensors(path: Path) -> object:
    try:
        load_file = importlib.import_module("safetensors.torch").load_file
    except ImportError as error:
        raise ModelError(
            f"Reading {str(path)!r} needs safetensors, which can't be imported ({error}). Install it: "
            f"`pip install safetensors`."
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own error is a plain subclass of Exception
        raise ModelError(f"Reading {str(path)!r} as safetensors raised {type(error).__name__}: {error}") from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelError(
            f"{str(path)!r} isn't a plain state dict: torch.load(weights_only=True) refuses it, and probekit never "
            f"unpickles files that may run code. Save the weights alone: torch.save(model.state_dict(), {path.name!r})."
        ) from error
    except Exception as error:  # a decoder that meets damaged bytes may raise anything
        raise ModelError(f"Reading {str(path)!r} raised {type(error).__name__}: {error}") from error
