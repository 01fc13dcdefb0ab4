"""The command that compares stores: compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import probekit
from probekit.cli import output
from probekit.cli.options import Json, Sites
from probekit.cli.values import file_to_write

if TYPE_CHECKING:
    from probekit._compare.comparison import Comparison

__all__ = ["compare"]


def compare(
    stores: Annotated[list[str], typer.Argument(help="Two or more stores; all are compared with the first one.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write a page here, such as compare.html.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="A metric; may be repeated. By default those that fit all stores."),
    ] = None,
    sites: Sites = None,
    repeats: Annotated[int, typer.Option(help="How often the samples are cut into halves, for the intervals.")] = 10,
    confidence: Annotated[float, typer.Option(help="The confidence of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="The seed of the cuts.")] = 0,
    memory: Annotated[str, typer.Option(help="Maximum memory for activations read from the stores.")] = "1GiB",
    json: Json = False,
) -> None:
    """Compare stores of the same samples: checkpoints, seeds, models, with an adapter and without.

    Samples are joined by their id. Prints each metric's difference at each site with its interval over the samples, and
    how alike the same sites and their nodes are; what isn't comparable is said.
    """
    out = file_to_write(out, "--out")
    found = probekit.compare(
        stores,
        metric or None,
        sites=sites,
        repeats=repeats,
        confidence=confidence,
        seed=seed,
        memory=memory,
    )
    if out is not None:  # first, since what is printed may be cut off, as by `| head`
        output.paragraph(f"Written to {found.write(out)}. Open it in a browser.")
    if json:
        output.pairs("", _everything(found), as_json=True)
    else:
        for each in found.tables:
            output.table(each, as_json=False)
        output.sentences(found.notes)


def _everything(found: Comparison) -> dict[str, object]:
    """What JSON has: the differences, how alike sites are, what is known of the stores, and the notes."""
    return {
        "stores": found.names,
        "samples": found.samples,
        "differences": output.records(found.to_dataframe()),
        "similarity": output.records(found.similarity.to_dataframe().reset_index()),
        "origins": found.origins.to_dict(),
        "settings": asdict(found.settings),
        "notes": found.notes,
    }
