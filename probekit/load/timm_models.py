"""Models of timm: ``timm:resnet18``, or with the weights of a tag ``timm:resnet18.a1_in1k``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import nn

from probekit.errors import ModelError, near
from probekit.load.hub import fault_of_hub, in_cache, offline
from probekit.load.packages import extra, installed
from probekit.load.transforms import ImageTransform

__all__ = ["timm_model", "timm_transform"]


def timm_model(name: str) -> tuple[nn.Module, str | None]:
    """The model, and which weights it has; None for random ones."""
    timm, config = extra("timm"), _config(name)
    if config is None:
        return _module(timm.create_model(name, pretrained=False)), None
    repository = config.hf_hub_id
    fault = fault_of_hub(repository) if repository else ""
    try:
        with offline() if fault else nullcontext():
            made = timm.create_model(name, pretrained=True)
    except Exception as error:  # the types of errors differ between what it downloads with
        raise ModelError(
            f"The weights of 'timm:{name}' can't be loaded: {type(error).__name__}: {' '.join(str(error).split())}"
            f"{fault} {_advice(name, repository)}"
        ) from error
    return _module(made), f"{config.tag} of timm ({repository or config.url})"


def timm_transform(name: str) -> ImageTransform | None:
    """The transform of timm's data config of the weights; None for random ones."""
    timm, config = extra("timm"), _config(name)
    if config is None:
        return None
    data = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    transform = timm.data.create_transform(**data, is_training=False)
    words = f"{' '.join(repr(transform).split())} of timm's data config of {name}"
    return ImageTransform(transform, words, {"transform": "timm.data.create_transform", **data}, rgb=True)


def _config(name: str) -> Any:
    """timm's own config of the weights that a name asks for; None if it asks for none."""
    timm = extra("timm")
    plain, dot, tag = name.partition(".")
    if "@" in name:
        plain = plain.partition("@")[0]
    if not timm.is_model(plain):
        known = timm.list_models()
        raise ModelError(
            f"timm {installed('timm')} has no model {plain!r} among its {len(known)}.{near(plain, known)} "
            "List them with timm.list_models()."
        )
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{plain}.*")]
    if "@" in name or (dot and tag not in tags):
        there = ", ".join(tags) or "none"
        raise ModelError(
            f"timm has no weights {name!r}; the tags of {plain} are: {there}. 'timm:{plain}' has random weights."
            f"{near(tag, tags)}"
        )
    return timm.get_pretrained_cfg(name) if dot else None


def _advice(name: str, repository: str | None) -> str:
    if not repository:
        return "Bring the file from a machine with a network, and load it into the model: weights=FILE."
    return (
        f"They are the file model.safetensors of {repository}, which isn't in {in_cache(repository)!r}. On a machine "
        f"with a network, `hf download {repository}` puts it there; then copy that folder."
    )


def _module(made: object) -> nn.Module:
    assert isinstance(made, nn.Module)  # timm's create_model is untyped here
    return made
