"""The commands that read a store: info, verify and measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import probekit
from probekit._table import Table
from probekit.cli import output
from probekit.cli.options import Json, Sites, StorePath
from probekit.cli.values import where_of

if TYPE_CHECKING:
    from probekit._store.store import SiteInfo

__all__ = ["info", "measure", "verify"]

SHOWN_CLASSES = 20


def info(path: StorePath, json: Json = False) -> None:
    """Show what a store holds and how it was captured."""
    from probekit._sizes import format_size

    found = probekit.info(path)
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
        classes = Table("Samples of each class", ("class", "samples"), _class_rows(found.classes))
        output.table(classes, as_json=False)
    known = {} if found.accuracy is None else {"accuracy": f"{found.accuracy:.2%}"}
    told = {key: value for key, value in found.attrs.items() if key != "preprocessing_steps"}  # in words there, too
    kept = {name: _by_site(found.sites, name) for name in ("reduce", "mask", "node_dim")}
    output.pairs("How it was captured", known | {k: v for k, v in kept.items() if v} | told, as_json=False)


def _by_site(sites: Sequence[SiteInfo], option: str) -> str:
    """What was kept of each site; where the sites differ, how many it holds for."""
    counts = Counter(site.kept[option] for site in sites if option in site.kept)
    return "; ".join(f"{value} ({count} sites)" if len(counts) > 1 else value for value, count in counts.items())


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _class_rows(classes: dict[str, int]) -> list[tuple[str, int]]:
    counts = list(classes.items())
    more = counts[SHOWN_CLASSES:]
    rest = [(f"{len(more)} more", sum(count for _, count in more))] if more else []
    return counts[:SHOWN_CLASSES] + rest


def verify(
    path: StorePath,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop what is damaged; capture --resume captures it again.")
    ] = False,
    json: Json = False,
) -> None:
    """Check that a store is complete and undamaged; exit code 1 where damage is left.

    Reads every chunk once and compares its length and its checksum. A store that is being written is checked as far as
    it is committed.
    """
    found = probekit.verify(path, repair=repair, progress=output.Bars())
    if json:
        output.pairs("", asdict(found), as_json=True)
    else:
        output.table(found.table, as_json=False)
    if found.kept is not None and found.kept < found.rows:
        output.paragraph("Capture the others again with the same `probekit capture` and --resume.")
    if not found and found.kept is None:
        output.paragraph(f"Drop what is damaged with: probekit verify {path} --repair")
        raise typer.Exit(1)


def measure(
    path: StorePath,
    metric: Annotated[list[str], typer.Option("--metric", "-m", help="A metric; may be repeated.")],
    sites: Sites = None,
    by: Annotated[str, typer.Option(help="The samples' column to group by, or none.")] = "label",
    where: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=VALUE: measure these samples only; a label by its code or name; may be repeated."),
    ] = None,
    nan: Annotated[Literal["raise", "omit"], typer.Option(help="What to do with samples that hold a NaN.")] = "raise",
    positions: Annotated[
        Literal["mean", "max", "each"], typer.Option(help="What to do with the positions of feature maps.")
    ] = "mean",
    scheduler: Annotated[str | None, typer.Option(help="The address of a dask cluster's scheduler.")] = None,
    memory: Annotated[str, typer.Option(help="Maximum memory for activations read from the store.")] = "1GiB",
    out: Annotated[Path | None, typer.Option(help="Write the results here, as a store.")] = None,
    json: Json = False,
) -> None:
    """Measure a store; print the mean of each variable over each site."""
    tree = probekit.measure(
        path,
        metric,
        sites=sites,
        by=None if by == "none" else by,
        where=where_of(where, path),
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
