"""The command that writes a store in the files of other tools: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import probekit
from probekit._sizes import Size
from probekit._table import Table
from probekit.cli import output
from probekit.cli.options import Json, Sites, StorePath, Where
from probekit.cli.values import where_of

__all__ = ["export"]


def export(
    path: StorePath,
    out: Annotated[str, typer.Argument(help="The folder to make.")],
    format: Annotated[
        Literal["npy", "safetensors", "parquet", "datasets"],
        typer.Option("--format", "-f", help="parquet and datasets (Hugging Face) need extras of these libraries."),
    ],
    sites: Sites = None,
    where: Where = None,
    memory: Annotated[str, typer.Option(help="How much of the store is held in memory at a time.")] = "256MiB",
    json: Json = False,
) -> None:
    """Write the activations of a store, with labels, ids and tokens, in the files of other tools.

    - npy: a folder for each site with activation.npy, and a file for each other column. Texts are JSON.
    - safetensors: the same, with all numbers of a site in rows.safetensors.
    - parquet: a table for each site.
    - datasets: what load_from_disk of the library datasets gives, by site.
    """
    made = probekit.export(path, out, format, sites=sites, where=where_of(where, path), memory=memory)
    rows = [(each.name, Size(_bytes(each))) for each in sorted(made.iterdir())]
    output.table(Table(f"{made}: {path} as {format}", ("file", "bytes"), rows), as_json=json)


def _bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in (place, *place.rglob("*")) if file.is_file())
