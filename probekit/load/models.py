"""Models by name, and their weights from files."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType

import torch
from torch import Tensor, nn

from probekit._files import local_path
from probekit.errors import ModelError, check_kind, near
from probekit.load.hugging_face import hugging_face
from probekit.load.packages import extra, installed, torchvision_module

__all__ = ["model"]

_FORMS = "torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER, package.module:factory or file.py:factory"


def model(name: str, *, weights: Path | None = None, seed: int = 0) -> nn.Module:
    """The model that a name stands for, with random weights drawn under `seed`, or with `weights` loaded into it.

    `name` is one of

    - ``torchvision:resnet18``, ``timm:vit_tiny_patch16_224``: one of torchvision's or timm's models with random
      weights;
    - ``hf:FOLDER`` (written by ``save_pretrained``) or ``hf:openai-community/gpt2`` (a name on the Hugging Face Hub):
      the saved model with its weights, of the class that its config names. ``@random`` after it gives random weights
      instead. It may also follow a model type: ``hf:gpt2@random`` reads no file. Code that comes with a model is never
      run;
    - ``package.module:factory`` or ``folder/file.py:factory``: the model that the function or class `factory` returns
      when it is called without arguments (or the model of that name). This runs the module or file. A file can import
      the modules in its folder, as under ``python file.py``.

    `weights` is a file with a state dict: ``.safetensors``, or another file that ``torch.load(weights_only=True)``
    reads. torch's global generators don't change.

    Raises ModelError if the name doesn't stand for a model, its package can't be imported, the factory fails, or the
    weights don't fit the model.

    >>> type(model("torchvision:resnet18")).__name__
    'ResNet'
    """
    check_kind("name", name, str, _FORMS, ModelError)
    source, _, what = name.rpartition(":")
    library, _, named = name.partition(":")
    with _seeded(seed):
        if library in _LIBRARIES:
            made = _LIBRARIES[library](named)
        elif source.endswith(".py"):
            made = _from_file(local_path(source, "name", ModelError), what)
        elif source and all(name.isidentifier() for name in source.split(".")):
            made = _from_module(source, what)
        else:
            raise ModelError(f"{name!r} doesn't say where the model comes from. Name it as {_FORMS}.")
    if weights is not None:
        _load_weights(made, local_path(weights, "weights", ModelError), name)
    return made


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # Reading the state of a CUDA device would start CUDA, so states are kept only if CUDA is already in use.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _from_torchvision(name: str) -> nn.Module:
    models = torchvision_module("models", ModelError)
    if "@" in name:
        plain = name.partition("@")[0]
        raise ModelError(
            f"'torchvision:{name}' asks for named weights, which probekit can't load: 'torchvision:{plain}' has random "
            f"weights, and a file with a state dict can be loaded into it (weights=).",
            arguments=("weights",),
        )
    known = models.list_models()
    if name not in known:
        raise ModelError(
            f"torchvision {installed('torchvision')} has no model {name!r} among its {len(known)}.{near(name, known)} "
            f"List them with torchvision.models.list_models()."
        )
    # Detection and segmentation models would download a backbone's weights unless told not to.
    parameters = inspect.signature(models.get_model_builder(name)).parameters
    made = models.get_model(name, **{key: None for key in parameters if key.startswith("weights")})
    assert isinstance(made, nn.Module)  # torchvision is untyped
    return made


def _from_timm(name: str) -> nn.Module:
    timm = extra("timm")
    plain = name.partition("@")[0].partition(".")[0]
    if name != plain and timm.is_model(plain):
        raise ModelError(
            f"'timm:{name}' asks for named weights, which probekit can't load: 'timm:{plain}' has random weights, and "
            "a file with a state dict can be loaded into it (weights=).",
            arguments=("weights",),
        )
    if not timm.is_model(name):
        known = timm.list_models()
        raise ModelError(
            f"timm {installed('timm')} has no model {name!r} among its {len(known)}.{near(name, known)} "
            "List them with timm.list_models()."
        )
    made = timm.create_model(name, pretrained=False)
    assert isinstance(made, nn.Module)  # timm's create_model is untyped here
    return made


_LIBRARIES: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "hf": hugging_face,
}


def _from_module(source: str, factory: str) -> nn.Module:
    try:
        module = importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{source}.".startswith(f"{error.name}."):
            raise _failed(f"Importing {source!r}", error) from error  # the module exists, one that it imports doesn't
        raise ModelError(
            f"There is no module {error.name!r} to import for '{source}:{factory}'. Install the package, put its "
            f"folder on PYTHONPATH, or name the file: path/to/file.py:{factory}."
        ) from error
    except (Exception, SystemExit) as error:
        raise _failed(f"Importing {source!r}", error) from error
    return _made_by(module, factory, source)


def _from_file(path: Path, factory: str) -> nn.Module:
    if not path.is_file():
        raise ModelError(f"There is no file {str(path)!r} to take {factory!r} from.")
    with _importable(path.parent):
        # In sys.modules under a name of its own, since some code looks up its module there (dataclasses do).
        spec = importlib.util.spec_from_file_location(f"_probekit_file_{path.stem}", path)
        assert spec is not None  # a .py file always has a loader
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[spec.name]
            raise _failed(f"Running {str(path)!r}", error) from error
        return _made_by(module, factory, str(path))


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _made_by(module: ModuleType, factory: str, source: str) -> nn.Module:
    make = getattr(module, factory, None)
    if not callable(make):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        there = near(factory, names) or f" It has {_few(map(repr, names)) or 'none'}."
        raise ModelError(f"{source!r} has no function or class {factory!r}.{there}")
    made = make if isinstance(make, nn.Module) else _called(make, f"{source}:{factory}")
    if not isinstance(made, nn.Module):
        raise ModelError(f"'{source}:{factory}' returned a {type(made).__name__}, not a torch.nn.Module.")
    return made


def _called(make: Callable[[], object], name: str) -> object:
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise _failed(f"Calling {name!r} with no arguments", error) from error


def _failed(doing: str, error: BaseException) -> ModelError:
    return ModelError(f"{doing} raised {type(error).__name__}: {error}")


def _few(items: Iterable[str], most: int = 5) -> str:
    listed = list(items)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


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
    return "; ".join(f"{len(keys)} {what} ({_few(keys, 3)})" for what, keys in differences.items() if keys)


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"There is no weights file {str(path)!r}.")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values()):
        return state
    content = f"a dict of {_few(map(repr, state))}" if isinstance(state, Mapping) else type(state).__name__
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
        raise _failed(f"Reading {str(path)!r} as safetensors", error) from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelError(
            f"{str(path)!r} isn't a plain state dict: torch.load(weights_only=True) refuses it, and probekit never "
            f"unpickles files that may run code. Save the weights alone: torch.save(model.state_dict(), {path.name!r})."
        ) from error
    except Exception as error:  # a decoder that meets damaged bytes may raise anything
        raise _failed(f"Reading {str(path)!r}", error) from error
