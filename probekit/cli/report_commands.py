"""The command that writes a page about a store or results: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from probekit.cli import completion, output
from probekit.cli.options import Sites

__all__ = ["report"]


def report(
    source: Annotated[
        str,
        typer.Argument(
            help="A store, or the results that `probekit measure --out` wrote.", autocompletion=completion.stores
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the page here.")] = Path("report.html"),
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="Measure this of a store, not what fits it; may be repeated.",
            autocompletion=completion.metrics,
        ),
    ] = None,
    sites: Sites = None,
    store: Annotated[str | None, typer.Option(help="The store that results are of, for samples and accuracy.")] = None,
    title: Annotated[str | None, typer.Option(help="The page's title, not the model and the data.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="The data that were captured, for pictures of the samples: named as for capture, with its --split, "
            "--limit and --seed."
        ),
    ] = None,
    split: Annotated[Literal["train", "test", "all"], typer.Option(help="The split that was captured.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="The --limit of the capture.")] = None,
    seed: Annotated[int, typer.Option(help="The --seed of the capture.")] = 0,
    data_dir: Annotated[Path | None, typer.Option(help="The folder that holds mnist, cifar10 and the like.")] = None,
) -> None:
    """Write a page about a store or about results: one file for any browser, which needs no network.

    A store is measured first. The page tells model, data and how to make it again, what to be wary of, what each site
    and each class show, the nodes that tell each class best with their samples; and it has an explorer of all nodes.
    """
    from probekit.report import write

    pictures = None
    told = {"--split": split != "train", "--limit": limit is not None, "--seed": seed != 0, "--data-dir": data_dir}
    if data is None and any(told.values()):
        named = ", ".join(option for option, given in told.items() if given)
        raise typer.BadParameter(
            f"{named} says which of the data were captured: name the data, too.", param_hint="--data"
        )
    if data is not None:
        from probekit import load

        pictures = load.dataset(data, split, limit=limit, seed=seed, data_dir=data_dir)
    written = write(
        source,
        out,
        store=store,
        metrics=metric or None,
        sites=sites,
        title=title,
        data=pictures,
    )
    output.paragraph(f"Written to {written}. Open it in a browser.")
