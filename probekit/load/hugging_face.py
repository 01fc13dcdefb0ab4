"""Models of transformers: saved ones, from a folder or the Hugging Face Hub, also with adapters, and random ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import nn

from probekit._files import local_path
from probekit.errors import ModelError, near
from probekit.load.hub import fault_of_hub, offline
from probekit.load.packages import extra, installed

__all__ = ["hugging_face", "processor_of"]

RANDOM = "random"
ADAPTER = "+adapter:"


def hugging_face(name: str) -> tuple[nn.Module, str | None]:
    """The model that `name` stands for after ``hf:``, and which weights it has, None for random ones.

    ``FOLDER`` or ``NAME_ON_THE_HUB`` gives the saved model with its weights, ``…+adapter:FOLDER`` with an adapter of
    peft's on it; ``…@random`` gives the architecture of its config with random weights, from torch's global generator;
    ``MODEL_TYPE@random``, one of transformers' types, needs no file and no network. If the Hub doesn't answer, a name
    on it stands for the model that was downloaded before.

    Raises ModelError if the model isn't there, can't be read, or would run code that comes with it.
    """
    base, plus, adapter = name.partition(ADAPTER)
    made, weights = _base(base)
    if not plus:
        return made, weights
    return _adapted(made, adapter, name), f"{weights or 'random'}, with the adapter {adapter}"


def _base(name: str) -> tuple[nn.Module, str | None]:
    transformers = extra("transformers")
    source, random = _source(name)
    is_type = random and not Path(source).is_dir() and source in transformers.CONFIG_MAPPING
    fault = "" if is_type else _fault(source)
    local = is_type or Path(source).is_dir() or bool(fault)
    try:
        with offline() if local else nullcontext():
            if is_type:
                return _module(transformers.AutoModel.from_config(transformers.AutoConfig.for_model(source))), None
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=local)
            _refuse_kernels(config, source)
            made = _class(transformers, config)
            if not random:
                saved = _with_weights(made or transformers.AutoModel, source, config, local=local)
                return saved, _told(source, config)
            return _module(made._from_config(config) if made else transformers.AutoModel.from_config(config)), None
    except ModelError:
        raise
    except Exception as error:  # transformers raises many types: OSError, ValueError, RuntimeError, KeyError, …
        raise ModelError(_failure(transformers, error, name, source, random=random) + fault) from error


def _told(source: str, config: Any) -> str:
    """Which weights a saved model has: its folder, or its name on the Hub with the commit."""
    if Path(source).is_dir():
        return f"the folder {source}"
    commit = getattr(config, "_commit_hash", None)
    return f"{source} on the Hugging Face Hub" + (f", commit {commit}" if commit else "")


def _fault(source: str) -> str:
    return "" if Path(source).is_dir() else fault_of_hub(source)


def _adapted(made: nn.Module, adapter: str, name: str) -> nn.Module:
    """The model with an adapter of peft's on it."""
    peft = extra("peft")
    path = local_path(adapter, "name", ModelError)
    source = str(path) if path.is_dir() else adapter
    fault = _fault(source)
    try:
        with offline() if path.is_dir() or fault else nullcontext():
            return _module(peft.PeftModel.from_pretrained(made, source))
    except Exception as error:  # as transformers does
        raise ModelError(
            f"The adapter of 'hf:{name}' can't be loaded by peft {installed('peft')}: {type(error).__name__}: "
            f"{' '.join(str(error).split())}{fault}"
        ) from error


def processor_of(name: str, kind: str) -> Any:
    """What transformers' `kind` (``AutoTokenizer`` or ``AutoImageProcessor``) loads for the model of a name.

    Raises ModelError if the model comes with none, or it can't be read.
    """
    transformers = extra("transformers")
    source, random = _source(name.partition(ADAPTER)[0])
    fault = _fault(source)
    load: Callable[..., Any] = getattr(transformers, kind).from_pretrained
    try:
        with offline() if fault or Path(source).is_dir() else nullcontext():
            return load(source, trust_remote_code=False, local_files_only=bool(fault) or Path(source).is_dir())
    except Exception as error:  # as for models
        what = "tokenizer, for texts" if kind == "AutoTokenizer" else "image processor, for images"
        hint = f" 'hf:{source}@random' reads no file." if random else ""
        raise ModelError(
            f"'hf:{name}' comes with no {what}, that transformers can load: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}{fault}{hint}"
        ) from error


def _source(name: str) -> tuple[str, bool]:
    """The folder, name on the Hub or model type; and whether random weights are asked for."""
    whole = local_path(name, "name", ModelError)
    source, at, weights = (name, "", "") if whole.is_dir() else name.rpartition("@") if "@" in name else (name, "", "")
    if at and weights != RANDOM:
        raise ModelError(
            f"'hf:{name}' asks for weights {weights!r}. 'hf:{source}' has its saved weights, "
            f"'hf:{source}@{RANDOM}' random ones."
        )
    folder = local_path(source, "name", ModelError)
    if source and folder.is_dir():
        _check_folder(folder, random=bool(at))
        return str(folder), bool(at)
    if not source or source.startswith(("/", ".", "~")):
        raise ModelError(f"There is no folder {source!r} to load 'hf:{name}' from.")
    return source, bool(at)


def _check_folder(folder: Path, *, random: bool) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The folder {str(folder)!r} has no config.json, which model.save_pretrained({str(folder)!r}) writes."
        )
    if not random and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ModelError(
            f"The folder {str(folder)!r} has a config.json but no weights (model.safetensors). "
            f"'hf:{folder}@{RANDOM}' is that model with random ones."
        )


def _refuse_kernels(config: Any, source: str) -> None:
    """Raise ModelError if a config names attention kernels, which transformers would fetch from the Hub and run."""
    for each in _configs(config):
        kernel = getattr(each, "_attn_implementation", None)
        if isinstance(kernel, str) and "/" in kernel:
            raise ModelError(
                f"The config of 'hf:{source}' asks for the attention kernel {kernel!r}, code that probekit doesn't "
                "fetch and run for a model's name. Load the model in a function of your own: file.py:factory."
            )


def _configs(config: Any) -> Iterator[Any]:
    """The config and all configs inside it."""
    yield config
    for name in getattr(config, "sub_configs", {}):
        if (inner := getattr(config, name, None)) is not None:
            yield from _configs(inner)


def _class(transformers: Any, config: Any) -> Any:
    """The model class that the config names; None if it names none, or transformers doesn't have it."""
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return None


def _with_weights(made: Any, source: str, config: Any, *, local: bool) -> nn.Module:
    # weights_only is for torch.load, which reads .bin files. The error for tensors of another shape would name none.
    model, info = made.from_pretrained(
        source,
        config=config,
        trust_remote_code=False,
        local_files_only=local,
        weights_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    if reshaped := info["mismatched_keys"]:
        key, saved, wanted = min(reshaped)
        raise ModelError(
            f"The weights of 'hf:{source}' don't fit its config: {len(reshaped)} of another shape ({key!r} is "
            f"{tuple(saved)}, not {tuple(wanted)}). Save both together with model.save_pretrained."
        )
    if missing := sorted(info["missing_keys"]):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        warnings.warn(
            f"The weights of 'hf:{source}' lack {', '.join(map(repr, missing[:3]))}{more} of {type(model).__name__}; "
            "they are random.",
            stacklevel=4,
        )
    return _module(model)


def _module(made: object) -> nn.Module:
    assert isinstance(made, nn.Module)  # transformers' classes are untyped here
    return made


def _failure(transformers: Any, error: Exception, name: str, source: str, *, random: bool) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"'hf:{name}' is a model with code of its own, which probekit doesn't run for a model's name. Read that "
            "code, and load the model in a function of your own with trust_remote_code=True: file.py:factory."
        )
    if isinstance(error, UnpicklingError):
        return (
            f"The weights of 'hf:{name}' aren't plain tensors: torch.load(weights_only=True) refuses them, and "
            "probekit never unpickles files that may run code. Save the model with model.save_pretrained, as "
            "safetensors."
        )
    types = transformers.CONFIG_MAPPING
    hint = f" 'hf:{source}@{RANDOM}' is that type of model with random weights." if source in types else ""
    return (
        f"'hf:{name}' can't be loaded by transformers {installed('transformers')}: {type(error).__name__}: "
        f"{' '.join(str(error).split())}{near(source, types) if random else hint}"
    )
