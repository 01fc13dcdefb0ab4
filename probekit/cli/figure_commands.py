"""The command that draws figures: plot."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer

from probekit._table import Table
from probekit.cli import completion, output
from probekit.cli.options import Json, Sites
from probekit.cli.values import path_of

__all__ = ["plot"]

_HOSTILE = re.compile(r'[\\/:*?"<>|\x00-\x1f]')  # to some file system
_LONGEST = 200  # characters of a file's name


def plot(
    source: Annotated[
        str,
        typer.Argument(
            help="A store, or results that `probekit measure --out` or a Watch wrote.", autocompletion=completion.stores
        ),
    ],
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KIND",
            help="Which kinds of figures; by default all that can be drawn of the source.",
            autocompletion=completion.kinds,
        ),
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="The folder to write them to.")] = "figures",
    sites: Sites = None,
    format: Annotated[
        Literal["png", "svg", "pdf"], typer.Option(help="The kind of file; large images are pixels in all of them.")
    ] = "png",
    json: Json = False,
) -> None:
    """Draw the standard set of figures of a store or of results; print the files that were written.

    A store is measured for them. The kinds:

    \b
    - profile: each metric's headline over the sites, beside its chance or null
    - medians: the median of each class at every node
    - distributions: the distribution of each class at three nodes of up to four sites
    - heatmap: classes × nodes of up to four sites
    - by-class: classes × sites
    - matrix: how alike sites are
    - pairs: how alike classes are at up to four sites
    - confusion: which class the model takes for which
    - samples: the samples that excite the best nodes of up to four classes most
    - by-step: each metric's headline over the steps of a training
    - by-position: what was measured at each position of the tokens
    """
    from probekit.plot import standard

    folder = path_of(out)
    if folder.exists() and not folder.is_dir():
        raise typer.BadParameter(f"{str(folder)!r} is a file; name the folder for the figures.", param_hint="--out")
    drawn = standard(source, kinds, sites=sites)
    files = [
        drawing.save(folder / name) for name, drawing in zip(_names(list(drawn), format), drawn.values(), strict=True)
    ]
    output.table(Table("", ("figure", "file"), list(zip(drawn, map(str, files), strict=True))), as_json=json)


def _names(figures: list[str], format: str) -> list[str]:
    """A file name for each figure, of which no two are equal, also where case doesn't count."""
    names: list[str] = []
    for number, figure in enumerate(figures):
        name = _HOSTILE.sub("_", figure)[:_LONGEST]
        taken = name.casefold() in {each.casefold() for each in names}
        names.append(f"{name} ({number})" if taken else name)
    return [f"{name}.{format}" for name in names]
