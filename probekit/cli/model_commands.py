"""The commands that run a model: sites, plan and capture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import probekit
from probekit._bars import Bars
from probekit.cli import output
from probekit.cli.options import CaptureGroup, DataGroup, Json, ModelGroup, SiteGroup, with_groups
from probekit.cli.threads import use_free_cores
from probekit.cli.values import device_of, zeros_of
from probekit.errors import ModelError, StoreError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["capture", "plan", "sites"]


@with_groups
def sites(
    sites: SiteGroup,
    model: ModelGroup,
    data: Annotated[str | None, typer.Option(help="Take the example from these data, named as for capture.")] = None,
    shape: Annotated[str | None, typer.Option(help="Shape of one input, such as 3x224x224, of zeros.")] = None,
    json: Json = False,
) -> None:
    """List the sites of a model: names, shapes, dtypes, bytes per sample.

    The model is run once on an example: from the data or the shape given, or made up from what a model of torchvision,
    timm or transformers says of itself.

    Lists the outputs of modules by default. --sites '**:input' lists their inputs, --sites '**~*' functional operations
    (not modules).
    """
    net = model.load()
    found = probekit.sites(net, _example(model, net, data, shape), select=sites.select, exclude=sites.exclude)
    output.table(replace(found.table, title=f"{model.model}: {len(found)} sites"), as_json=json)


@with_groups
def capture(
    sites: SiteGroup,
    how: CaptureGroup,
    model: ModelGroup,
    data: DataGroup,
    out: Annotated[str, typer.Argument(help="Where to write the store: a path, or a URL.")],
    device: Annotated[str, typer.Option(help="The device that the model runs on.")] = "cpu",
    append: Annotated[
        Literal["samples", "sites"] | None,
        typer.Option(help="Add to the complete store at OUT: more samples, or more sites of its samples."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume a capture into OUT that was stopped, if there is one.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store at OUT.")] = False,
    durable: Annotated[
        bool, typer.Option("--durable", help="Flush every file to disk before the commit that counts on it.")
    ] = False,
) -> None:
    """Stream a model's activations on data into a new store."""
    net, samples, bars = model.load().to(device_of(device)), data.load(model), Bars()
    if device == "cpu":
        use_free_cores(_threads_of(out) if resume else None)
    probekit.capture(
        net,
        samples,
        out,
        sites=sites.select,
        exclude=sites.exclude,
        **how.arguments(),
        append=append,
        resume=resume,
        overwrite=overwrite,
        durable=durable,
        progress=bars,
    )
    done = f"Captured into {out}" if bars.used else f"{out} was complete already"
    output.paragraph(f"{done}.{_accuracy(out)} Look at it with: probekit info {out}")


@with_groups
def plan(sites: SiteGroup, how: CaptureGroup, model: ModelGroup, data: DataGroup, json: Json = False) -> None:
    """Show what a capture would write, how much memory it would use, and how much disk it would need."""
    net, samples = model.load(), data.load(model)
    use_free_cores()
    made = probekit.plan(net, samples, sites=sites.select, exclude=sites.exclude, **how.arguments())
    output.table(made.table, as_json=json)


def _threads_of(store: str) -> int | None:
    """The threads that a capture into this store began with; None where there is no store, or it doesn't say."""
    try:
        return probekit.info(store).attrs.get("threads")
    except StoreError:
        return None


def _accuracy(store: str) -> str:
    """How often the model predicts the label, where a store knows it."""
    found = probekit.info(store)
    if found.accuracy is None:
        return ""
    return f" Accuracy: {found.accuracy:.1%} of {found.rows} samples, if the logits are in the order of the classes."


def _example(group: ModelGroup, model: nn.Module, data: str | None, shape: str | None) -> Any:
    from probekit import load
    from probekit._data.batches import Batches

    if data is not None:
        found = load.dataset(data, limit=2, preprocess=load.preprocess(group.model))
        return next(iter(Batches(found))).inputs
    if shape is not None:
        return zeros_of(shape)
    try:
        return load.example(model)
    except ModelError as error:
        raise typer.BadParameter(f"{error} Give an example: --shape 3x32x32 or --data digits.") from error
