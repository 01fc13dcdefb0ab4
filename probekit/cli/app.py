"""The commands."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

import probekit
from probekit import plugins
from probekit._table import Table
from probekit.cli import output
from probekit.cli.recipes import RecipeGroup
from probekit.cli.values import where_of
from probekit.cli.wording import as_typed
from probekit.errors import ModelError, ProbekitError

if TYPE_CHECKING:
    import torch
    from torch import nn


class Root(TyperGroup):
    """The one place where what goes wrong becomes a paragraph and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        output.plain_warnings()
        plugins.warn_of_namesake()
        try:
            return super().invoke(ctx)
        except ProbekitError as error:
            fail(self._as_typed(ctx, str(error)))
        except OSError as error:
            fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.")
        except KeyboardInterrupt:
            fail(
                "Stopped. What was finished is kept: a store opens with the samples it committed, and the same capture "
                "with --resume goes on from there, as does a recipe that is run again."
            )

    def _as_typed(self, ctx: Any, text: str) -> str:
        name = ctx.invoked_subcommand or ""
        command, function = self.get_command(ctx, name), getattr(probekit, name, None)
        options = (
            {each.name: each.opts[0] for each in command.params if each.opts[0].startswith("--")} if command else {}
        )
        arguments = inspect.signature(function).parameters if inspect.isfunction(function) else ()
        return as_typed(text, name, tuple(arguments), options, self.commands)


def fail(text: str) -> NoReturn:
    output.paragraph(f"Error: {text}")
    raise typer.Exit(1)


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="What the units of a neural network do, for each class of input.",
)
app.add_typer(
    typer.Typer(cls=RecipeGroup, no_args_is_help=True),
    name="run",
    help="Run a recipe: a whole study. `probekit recipes` lists them, `probekit run NAME --help` its options.",
)

SHOWN_CLASSES = 20

Model = Annotated[
    str,
    typer.Argument(
        help="torchvision:NAME or timm:NAME (random weights), hf:FOLDER or hf:NAME (the saved weights, or random ones "
        "with @random after it, as in hf:gpt2@random), package.module:factory, or file.py:factory."
    ),
]
Data = Annotated[
    str,
    typer.Argument(
        help="digits, mnist, cifar10, imagefolder:DIR, or a file.npz: with x and y (or x_train, y_train, x_test, "
        "y_test), or with the model's inputs by name, such as input_ids and attention_mask, and label."
    ),
]
StorePath = Annotated[str, typer.Argument(help="A store: a folder, or a URL such as s3://bucket/acts.zarr.")]
Sites = Annotated[list[str] | None, typer.Option("--sites", "-s", help="A glob, such as 'layers.*'; may be repeated.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Sites to leave out, as a glob; may be repeated.")]
Reduce = Annotated[
    str | None, typer.Option(help="Keep of each activation: mean, max, flatten, cls, last, or tokens (a row for each).")
]
Dtype = Annotated[
    Literal["float16", "bfloat16", "float32", "float64"] | None,
    typer.Option(help="On disk; as the model gives it by default."),
]
Compression = Annotated[
    Literal["fast", "small"] | None, typer.Option(help="Of the chunks: lz4 or zstd; none by default, which is fastest.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples a batch.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take the first samples only.")]
Split = Annotated[Literal["train", "test", "all"], typer.Option(help="Which samples.")]
DataDir = Annotated[Path | None, typer.Option(help="Where mnist and cifar10 lie.")]
Memory = Annotated[str, typer.Option(help="The buffer's bound.")]
Weights = Annotated[Path | None, typer.Option(help="A file with the model's state dict.")]
Seed = Annotated[int, typer.Option(help="Seed of the model's random weights.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"probekit {probekit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = (
        False
    ),
) -> None:
    pass


@app.command("sites")
def sites_command(
    model: Model,
    sites: Sites = None,
    exclude: Exclude = None,
    data: Annotated[str | None, typer.Option(help="Take the example from these data, named as for capture.")] = None,
    shape: Annotated[str | None, typer.Option(help="Shape of one input, such as 3x224x224, of zeros.")] = None,
    weights: Weights = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """List the places of a model that can be read: names, shapes, dtypes, bytes a sample.

    The model is run once on an example: of the data or shape given, else one made up from what a model of torchvision,
    timm or transformers tells of itself.

    Outputs of modules by default; --sites '**:input' lists their inputs, --sites '**~*' operations that are no module.
    """
    from dataclasses import replace

    from probekit import load

    net = load.model(model, weights=weights, seed=seed)
    found = probekit.sites(net, _example(net, data, shape), select=sites or "**", exclude=exclude)
    output.table(replace(found.table, title=f"{model}: {len(found)} sites"), as_json=json)


@app.command()
def capture(
    model: Model,
    data: Data,
    out: Annotated[str, typer.Argument(help="Where the store will stand: a path, or a URL.")],
    sites: Sites = None,
    exclude: Exclude = None,
    reduce: Reduce = None,
    dtype: Dtype = None,
    compression: Compression = None,
    mode: Annotated[Literal["eval", "train"], typer.Option(help="The mode that the model runs in.")] = "eval",
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Keep the class that the model predicts for each sample.")
    ] = False,
    batch_size: BatchSize = 256,
    limit: Limit = None,
    split: Split = "train",
    data_dir: DataDir = None,
    device: Annotated[str, typer.Option(help="Where the model runs.")] = "cpu",
    weights: Weights = None,
    seed: Seed = 0,
    memory: Memory = "256MiB",
    append: Annotated[
        Literal["samples", "sites"] | None,
        typer.Option(help="Add to the complete store at OUT: more samples, or more sites of its samples."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a capture into OUT that was stopped, if there is one.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that stands at OUT.")] = False,
    durable: Annotated[
        bool, typer.Option("--durable", help="Have every file on the disk before a commit counts on it.")
    ] = False,
) -> None:
    """Stream a model's activations on data into a new store."""
    from probekit import load

    samples = load.dataset(data, split, limit=limit, data_dir=data_dir)
    net = load.model(model, weights=weights, seed=seed).to(_device(device))
    bars = output.Bars()
    probekit.capture(
        net,
        samples,
        out,
        sites=sites or "**",
        exclude=exclude,
        reduce=reduce,
        dtype=dtype,
        compression=compression,
        mode=mode,
        predictions=predictions,
        batch_size=batch_size,
        memory=memory,
        append=append,
        resume=resume,
        overwrite=overwrite,
        durable=durable,
        progress=bars,
    )
    done = f"Captured into {out}" if bars.used else f"{out} was complete already"
    output.paragraph(f"{done}. Look at it with: probekit info {out}")


@app.command("plan")
def plan_command(
    model: Model,
    data: Data,
    sites: Sites = None,
    exclude: Exclude = None,
    reduce: Reduce = None,
    dtype: Dtype = None,
    compression: Compression = None,
    batch_size: BatchSize = 256,
    limit: Limit = None,
    split: Split = "train",
    data_dir: DataDir = None,
    weights: Weights = None,
    seed: Seed = 0,
    memory: Memory = "256MiB",
    json: Json = False,
) -> None:
    """Show what a capture would write, hold in memory, and need on disk."""
    from probekit import load

    samples = load.dataset(data, split, limit=limit, data_dir=data_dir)
    net = load.model(model, weights=weights, seed=seed)
    made = probekit.plan(
        net,
        samples,
        sites=sites or "**",
        exclude=exclude,
        reduce=reduce,
        dtype=dtype,
        compression=compression,
        batch_size=batch_size,
        memory=memory,
    )
    output.table(made.table, as_json=json)


@app.command("info")
def info_command(path: StorePath, json: Json = False) -> None:
    """Show what a store holds and how it was made."""
    from dataclasses import asdict

    from probekit._sizes import format_size
    from probekit._store.store import info

    found = info(path)
    if json:
        output.pairs("", asdict(found), as_json=True)
        return
    state = "complete" if found.complete else f"of {found.attrs.get('expected_rows', '?')}: not complete"
    size = format_size(sum(site.bytes for site in found.sites))
    columns = ("site", "type", "dims", "shape", "dtype", "chunk", "on disk")
    rows = [
        (s.name, s.type, s.dims, _times(s.shape), s.dtype, _times(s.chunk), format_size(s.bytes)) for s in found.sites
    ]
    output.table(Table(f"{path}: {found.rows} samples, {state}, {size}", columns, rows), as_json=False)
    if found.classes:
        counts = list(found.classes.items())
        more = len(counts) - SHOWN_CLASSES
        rest = [(f"{more} more", sum(count for _, count in counts[SHOWN_CLASSES:]))] if more > 0 else []
        classes = Table("Samples of each class", ("class", "samples"), counts[:SHOWN_CLASSES] + rest)
        output.table(classes, as_json=False)
    output.pairs("How it was made", found.attrs, as_json=False)


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


@app.command("verify")
def verify_command(
    path: StorePath,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop what isn't sound; capture --resume makes it again.")
    ] = False,
    json: Json = False,
) -> None:
    """Check that all of a store is there and is what was written; exit code 1 where damage is left.

    Reads every chunk once and compares its length and its checksum. A store that is being written is checked as far as
    it is committed.
    """
    from dataclasses import asdict

    found = probekit.verify(path, repair=repair, progress=output.Bars())
    if json:
        output.pairs("", asdict(found), as_json=True)
    else:
        output.table(found.table, as_json=False)
    if not found and found.kept is None:
        output.paragraph(f"Drop what isn't sound with: probekit verify {path} --repair")
        raise typer.Exit(1)


@app.command("measure")
def measure_command(
    path: StorePath,
    metric: Annotated[list[str], typer.Option("--metric", "-m", help="A metric; may be repeated.")],
    sites: Sites = None,
    by: Annotated[str, typer.Option(help="The samples' column to group by, or none.")] = "label",
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: measure these samples only; may be repeated.")
    ] = None,
    nan: Annotated[Literal["raise", "omit"], typer.Option(help="What becomes of samples with a NaN.")] = "raise",
    positions: Annotated[
        Literal["mean", "max", "each"], typer.Option(help="What becomes of the positions of feature maps.")
    ] = "mean",
    scheduler: Annotated[str | None, typer.Option(help="The address of a dask cluster's scheduler.")] = None,
    memory: Annotated[str, typer.Option(help="The bound on what is held of the store.")] = "1GiB",
    out: Annotated[Path | None, typer.Option(help="Write the result as a store here.")] = None,
    json: Json = False,
) -> None:
    """Measure a store; prints the mean of each variable over each site."""
    tree = probekit.measure(
        path,
        metric,
        sites=sites,
        by=None if by == "none" else by,
        where=where_of(where),
        nan=nan,
        positions=positions,
        scheduler=scheduler,
        memory=memory,
        out=out,
        progress=output.Bars(),
    )
    means = probekit.summary(tree).reset_index()
    output.table(Table.from_dataframe(f"{path}: means over each site", means), as_json=json)
    if not json:
        output.matrices(tree.to_dataset())
    if out is not None:
        output.paragraph(f"Written to {out}.")


@app.command("metrics")
def metrics_command(json: Json = False) -> None:
    """List the installed metrics."""
    from dataclasses import astuple

    from probekit._measure.catalogue import describe_metrics

    rows = [astuple(description) for description in describe_metrics()]
    columns = ("metric", "kind", "shape", "from", "what it gives")
    output.table(Table(f"{len(rows)} metrics", columns, rows), as_json=json)


@app.command("recipes")
def recipes_command(json: Json = False) -> None:
    """List the installed recipes."""
    found = plugins.load_all(plugins.RECIPES)
    rows = [(p.name, f"{p.distribution} {p.version}", _first_line(recipe)) for p, recipe in found.items()]
    output.table(Table(f"{len(rows)} recipes", ("recipe", "from", "what it does"), rows), as_json=json)


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _example(model: nn.Module, data: str | None, shape: str | None) -> Any:
    from probekit import load
    from probekit._data.batches import Batches

    if data is not None:
        return next(iter(Batches(load.dataset(data, limit=2)))).inputs
    if shape is not None:
        return _zeros(shape)
    try:
        return load.example(model)
    except ModelError as error:
        raise typer.BadParameter(f"{error} Say it: --shape 3x32x32 or --data digits.") from error


def _zeros(shape: str) -> torch.Tensor:
    import torch

    try:
        return torch.zeros(2, *map(int, shape.split("x")))
    except (ValueError, RuntimeError) as error:  # RuntimeError: a negative length
        raise typer.BadParameter(f"--shape {shape!r} is not a shape such as 3x224x224.") from error


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"--device {name!r}: {error}") from error
    return device
