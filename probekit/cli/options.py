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

from probekit.cli import completion, output
from probekit.cli.values import sides_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CaptureGroup", "DataGroup", "Json", "ModelGroup", "SiteGroup", "Sites", "StorePath", "Where", "with_groups"]

StorePath = Annotated[
    str,
    typer.Argument(help="A store: a folder, or a URL such as s3://bucket/acts.zarr.", autocompletion=completion.stores),
]
Sites = Annotated[
    list[str] | None,
    typer.Option("--sites", "-s", help="A glob, such as 'layers.*'; may be repeated.", autocompletion=completion.sites),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        help="COLUMN=VALUE: take these samples only; a label by its code or name; may be repeated.",
        autocompletion=completion.columns,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class ModelGroup:
    """Which model, with which weights."""

    model: Annotated[
        str,
        typer.Argument(
            help="torchvision:resnet18@DEFAULT, timm:NAME.tag, open_clip:NAME@tag, hf:FOLDER or hf:NAME (also with "
            "+adapter:FOLDER), with their pretrained weights; without @ or tag (hf: with @random) random ones; "
            "package.module:factory or file.py:factory.",
            autocompletion=completion.models,
        ),
    ]
    weights: Annotated[Path | None, typer.Option(help="A file with the model's state dict.")] = None
    seed: Annotated[int, typer.Option(help="Seed of random weights, and of the samples that --limit takes.")] = 0

    def load(self) -> nn.Module:
        """The model; says on stderr where its weights are random."""
        from probekit import load
        from probekit._provenance import facts_of

        made = load.model(self.model, weights=self.weights, seed=self.seed)
        whose = str(facts_of(made)["weights_from"])
        if whose.startswith("random"):
            output.paragraph(f"Note: {self.model} has {whose.replace(',', ' weights,', 1)}: they were never trained.")
        return made


@dataclass(frozen=True)
class DataGroup:
    """Which data, which of their samples, and what is done to them before the model sees them."""

    data: Annotated[
        str,
        typer.Argument(
            help="digits, mnist, cifar10, imagefolder:DIR, torchvision:CIFAR100, hfdata:NAME_OR_FOLDER[:split]; texts "
            "in a .csv, .tsv, .jsonl, .parquet or .txt; a file.npz, with x and y or with the model's inputs by name; "
            "file.py:make_data or package.module:factory.",
            autocompletion=completion.data,
        ),
    ]
    limit: Annotated[int | None, typer.Option(min=1, help="Use so many samples only: each class's share.")] = None
    limit_order: Annotated[
        Literal["stratified", "first"], typer.Option(help="Which samples --limit takes: a drawn share, or the first.")
    ] = "stratified"
    split: Annotated[Literal["train", "test", "all"], typer.Option(help="Which samples to use.")] = "train"
    data_dir: Annotated[Path | None, typer.Option(help="The folder that holds mnist, cifar10 and the like.")] = None
    transform: Annotated[
        str | None, typer.Option(help="file.py:factory of the images' transform, instead of the model's own.")
    ] = None
    resize: Annotated[
        str | None, typer.Option(help="Resize images: the shorter side, whose centre is kept, or HEIGHTxWIDTH.")
    ] = None
    normalize: Annotated[
        str | None, typer.Option(help="Normalise images: imagenet, cifar10, mnist, or M1,M2,M3/S1,S2,S3.")
    ] = None
    tokenizer: Annotated[
        str | None, typer.Option(help="hf:FOLDER or hf:NAME whose tokenizer reads the texts, instead of the model's.")
    ] = None
    text_column: Annotated[str | None, typer.Option(help="The column of the texts; by default text or sentence.")] = (
        None
    )
    label_column: Annotated[str | None, typer.Option(help="The column of the labels; by default label or labels.")] = (
        None
    )
    max_length: Annotated[int | None, typer.Option(min=1, help="Cut texts after so many tokens.")] = None

    def load(self, model: ModelGroup) -> Any:
        """The data as `model` takes them; says on stderr what is done to them."""
        from probekit import load
        from probekit._provenance import facts_of

        found = load.dataset(
            self.data,
            self.split,
            limit=self.limit,
            limit_order=self.limit_order,
            seed=model.seed,
            data_dir=self.data_dir,
            preprocess=self._preprocess(model),
            text_column=self.text_column,
            label_column=self.label_column,
            max_length=self.max_length,
        )
        facts = facts_of(found)
        for key, name in _TOLD.items():
            if facts.get(key, "none") != "none":
                output.paragraph(f"{name}: {facts[key]}.")
        return found

    def _preprocess(self, model: ModelGroup) -> Any:
        """What is done to samples: what the options say, else what belongs to the model's weights."""
        from probekit import load

        of_images = {"--transform": self.transform, "--resize": self.resize, "--normalize": self.normalize}
        given = [option for option, value in of_images.items() if value is not None]
        if self.tokenizer is not None and given:
            raise typer.BadParameter(f"It is for texts, and {given[0]} for images. Give one.", param_hint="--tokenizer")
        if self.transform is not None:
            if self.resize is not None or self.normalize is not None:
                raise typer.BadParameter("It takes the place of --resize and --normalize.", param_hint="--transform")
            return load.image_transform(self.transform)
        if self.resize is not None or self.normalize is not None:
            return load.image_transform(resize=sides_of(self.resize), normalize=self.normalize)
        if self.tokenizer is not None:
            return load.preprocess(self.tokenizer)
        return None if model.weights is not None else load.preprocess(model.model)


# What is told of data before a capture: guesses that may be wrong.
_TOLD = {
    "data_limit": "Samples",
    "text_column": "Texts",
    "label_column": "Labels",
    "preprocessing": "Preprocessing",
}


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
        typer.Option(
            help="Reduce each activation: mean, max, flatten, cls, last, tokens (a row for each token), or "
            "attention_entropy (of attention maps, for each head)."
        ),
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
        bool | None,
        typer.Option(
            help="Keep the class that the model predicts for each sample; by default where the samples have labels and "
            "there are as many logits as classes."
        ),
    ] = None
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Leave each forward pass once the selected sites have been seen.")
    ] = False
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples per batch; by default 256, or fewer where these don't fit.")
    ] = None
    workers: Annotated[int, typer.Option(min=0, help="Processes that read the data, such as images.")] = 0
    memory: Annotated[str, typer.Option(help="Maximum write-buffer memory.")] = "256MiB"

    def arguments(self) -> dict[str, Any]:
        """The options as arguments of `probekit.capture` and `probekit.plan`."""
        predictions = "auto" if self.predictions is None else self.predictions
        return asdict(self) | {"mask": False if self.mask == "none" else self.mask, "predictions": predictions}


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as typer takes it: each parameter that is a group is replaced by the group's options."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()

    def run(**given: Any) -> None:
        command(**{parameter.name: _value(parameter, given) for parameter in parameters})

    options = [option.replace(kind=option.KEYWORD_ONLY) for each in parameters for option in _options(each)]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
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
