"""Models of open_clip: ``open_clip:ViT-B-32``, with the weights of a tag ``open_clip:ViT-B-32@laion2b_s34b_b79k``."""

from __future__ import annotations

from contextlib import nullcontext

from torch import nn

from probekit.errors import ModelError, near
from probekit.load.hub import fault_of_hub, in_cache, offline
from probekit.load.packages import extra, installed
from probekit.load.transforms import ImageTransform

__all__ = ["open_clip_model", "open_clip_transform"]


def open_clip_model(name: str) -> tuple[nn.Module, str | None]:
    """The model, and which weights it has; None for random ones."""
    open_clip, (plain, tag) = extra("open_clip"), _names(name)
    if tag is None:
        return _module(open_clip.create_model(plain, load_weights=False, pretrained_text=False)), None
    repository = str(open_clip.get_pretrained_cfg(plain, tag).get("hf_hub") or "").strip("/")
    fault = fault_of_hub(repository) if repository else ""
    try:
        with offline() if fault else nullcontext():
            made = open_clip.create_model(plain, pretrained=tag, weights_only=True)
    except Exception as error:  # the types of errors differ between what it downloads with
        where = (
            f" Its files lie in {in_cache(repository)!r} once `hf download {repository}` has put them there."
            if repository
            else ""
        )
        raise ModelError(
            f"The weights of 'open_clip:{name}' can't be loaded: {' '.join(str(error).split())}{fault}{where}"
        ) from error
    return _module(made), f"{tag} of open_clip ({repository or 'its own file'})"


def open_clip_transform(name: str) -> ImageTransform | None:
    """The transform of the images that the weights were made for; None for random ones."""
    open_clip, (plain, tag) = extra("open_clip"), _names(name)
    if tag is None:
        return None
    config = open_clip.get_pretrained_cfg(plain, tag)
    side = open_clip.get_model_config(plain)["vision_cfg"]["image_size"]
    known = {key: config[key] for key in ("mean", "std", "interpolation", "resize_mode") if config.get(key)}
    steps = {"size": side, **known}
    function = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**steps), is_train=False)
    words = f"{' '.join(repr(function).split())} of the weights {tag}"
    return ImageTransform(function, words, {"transform": "open_clip.image_transform_v2", **steps}, rgb=True)


def _names(name: str) -> tuple[str, str | None]:
    """The plain name of a model, and the tag of its weights if one is asked for."""
    open_clip = extra("open_clip")
    plain, at, tag = name.partition("@")
    known = open_clip.list_models()
    if plain not in known:
        raise ModelError(
            f"open_clip {installed('open_clip_torch')} has no model {plain!r} among its {len(known)}."
            f"{near(plain, known)} List them with open_clip.list_models()."
        )
    if not at:
        return plain, None
    tags = open_clip.list_pretrained_tags_by_model(plain)
    if tag not in tags:
        raise ModelError(
            f"open_clip has no weights {tag!r} of {plain}; there are: {', '.join(tags) or 'none'}.{near(tag, tags)}"
        )
    return plain, tag


def _module(made: object) -> nn.Module:
    assert isinstance(made, nn.Module)  # open_clip is untyped here
    return made
