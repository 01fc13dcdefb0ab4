"""The options that commands share, each in one place: single ones, and groups that several commands take whole.

A group is a frozen dataclass whose fields are options (or arguments). A command takes it as one parameter, and
`with_groups` makes it a command with the group's options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

__all__ = ["CaptureGroup", "DataGroup", "Json", "ModelGroup", "SiteGroup", "Sites", "StorePath", "with_groups"]

StorePath = Annotated[str, typer.Argument(help="A store: a folder, or a URL such as s3://bucket/acts.zarr.")]
Sites = Annotated[list[str] | None, typer.Option("--sites", "-s", help="A glob, such as 'layers.*'; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class ModelGroup:
    """Which model, with which weights."""

    model: Annotated[
        str,
        typer.Argument(
            help="torchvision:NAME or timm:NAME (random weights), hf:FOLDER or hf:NAME (the saved weights, or random "
            "ones with @random after it, as in hf:gpt2@random), package.module:factory, or file.py:factory."
        ),
    ]
    weights: Annotated[Path | None, typer.Option(help="A file with the model's state dict.")] = None
    seed: Annotated[int, typer.Option(help="Seed of the model's random weights.")] = 0

    def load(self) -> nn.Module:
        from probekit import load

        return load.model(self.model, weights=self.weights, seed=self.seed)


@dataclass(frozen=True)
class DataGroup:
    """Which data, and which of their samples."""

    data: Annotated[
        str,
        typer.Argument(
            help="digits, mnist, cifar10, imagefolder:DIR, or a file.npz: with x and y (or x_train, y_train, x_test, "
            "y_test), or with the model's inputs by name, such as input_ids and attention_mask, and label."
        ),
    ]
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first samples.")] = None
    split: Annotated[Literal["train", "test", "all"], typer.Option(help="Which samples to use.")] = "train"
    data_dir: Annotated[Path | None, typer.Option(help="The folder that holds mnist and cifar10.")] = None

    def load(self) -> Dataset[Any]:
        from probekit import load

        return load.dataset(self.data, self.split, limit=self.limit, data_dir=self.data_dir)


@dataclass(frozen=True)
class SiteGroup:
    """Which sites."""

    sites: Sites = None
    exclude: Annotated[list[str] | None, typer.Option(help="Sites to leave out, as a glob; may be repeated.")] = None

    @property
    def select(self) -> list[str] | str:
        """The sites to select: all, unless some are named."""
        return self.sites or "**"


@dataclass(frozen=True)
class CaptureGroup:
    """What is kept of each activation, and how the model runs: the arguments that a capture and its plan share."""

    reduce: Annotated[
        str | None,
        typer.Option(help="Reduce each activation: mean, max, flatten, cls, last, or tokens (a row for each token)."),
    ] = None
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "float64"] | None,
        typer.Option(help="The dtype on disk; by default the one that the model gives."),
    ] = None
    compression: Annotated[
        Literal["fast", "small"] | None,
        typer.Option(help="Compress the chunks: fast is lz4, small is zstd. By default none, which is fastest."),
    ] = None
    batch_dim: Annotated[int | None, typer.Option(help="The axis that is the batch; by default axis 0.")] = None
    node_dim: Annotated[
        int | None, typer.Option(help="The axis that is the nodes; by default as `probekit sites` shows it.")
    ] = None
    mask: Annotated[
        str | None,
        typer.Option(help="The input that is 1 for real tokens, or none; by default the one called attention_mask."),
    ] = None
    ignore_label: Annotated[int | None, typer.Option(help="Leave out the samples with this label, such as -100.")] = (
        None
    )
    mode: Annotated[
        Literal["eval", "train", "as is"], typer.Option(help="The mode that the model runs in; as is leaves its flags.")
    ] = "eval"
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Keep the class that the model predicts for each sample.")
    ] = False
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Leave each forward pass once the selected sites have been seen.")
    ] = False
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per batch.")] = 256
    memory: Annotated[str, typer.Option(help="Maximum write-buffer memory.")] = "256MiB"

    def arguments(self) -> dict[str, Any]:
        """The options as arguments of `probekit.capture` and `probekit.plan`."""
        return asdict(self) | {"mask": False if self.mask == "none" else self.mask}


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as typer takes it: each parameter that is a group is replaced by the group's options."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()

    def run(**given: Any) -> None:
        command(**{parameter.name: _value(parameter, given) for parameter in parameters})

    options = [option.replace(kind=option.KEYWORD_ONLY) for each in parameters for option in _options(each)]
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return run


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    if not _is_group(parameter):
        return [parameter]
    return list(inspect.signature(parameter.annotation, eval_str=True).parameters.values())


def _value(parameter: inspect.Parameter, given: Mapping[str, Any]) -> Any:
    if not _is_group(parameter):
        return given[parameter.name]
    return parameter.annotation(**{option.name: given[option.name] for option in _options(parameter)})


def _is_group(parameter: inspect.Parameter) -> bool:
    return is_dataclass(parameter.annotation)
