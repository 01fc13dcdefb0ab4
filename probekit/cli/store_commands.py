"""The commands that read a store: info, verify, measure and top."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import probekit
from probekit._table import Table
from probekit.cli import completion, output
from probekit.cli.options import Json, Sites, StorePath, Where
from probekit.cli.values import classes_of, file_to_write, where_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from probekit._results.summary import Summary

__all__ = ["info", "measure", "top", "verify"]


def info(path: StorePath, json: Json = False) -> None:
    """Show what a store holds and how it was captured.

    Of results, show what was measured and of what; of a report, its title and size.
    """
    from probekit._results.opening import holds_results, open_any

    if Path(path).is_file() and _show_page(path, json):
        return
    if holds_results(path):
        _show_results(path, open_any(path), json)
        return
    found = probekit.info(path)
    if json:
        output.pairs("", asdict(found), as_json=True)
        return
    output.table(found.table, as_json=False)
    if found.classes:
        output.table(found.class_table, as_json=False)
    output.table(found.capture_table, as_json=False)


def _show_page(path: str, json: bool) -> bool:
    """Show what a page says of itself; False for any other file."""
    from probekit._sizes import format_size
    from probekit.report.written import page_at

    page = page_at(path)
    if page is not None:
        size = page.bytes if json else format_size(page.bytes)
        output.pairs(f"{path}: a page to open in a browser", asdict(page) | {"bytes": size}, as_json=json)
    return page is not None


def _show_results(path: str, tree: xr.DataTree, json: bool) -> None:
    """The variables of each site, and what is known of the store that they are of."""
    groups = {
        str(group.attrs.get("site", key)): group.to_dataset(inherit=False) for key, group in tree.children.items()
    }
    rows = [
        (
            site,
            group.attrs.get("type"),
            group.sizes.get("node"),
            group.sizes.get("label"),
            list(map(str, group.data_vars)),
            list(dict.fromkeys(str(each.attrs["positions"]) for each in group.values() if "positions" in each.attrs)),
        )
        for site, group in groups.items()
    ]
    columns = ("site", "type", "nodes", "classes", "variables", "positions")
    attrs = {str(key): value for key, value in tree.attrs.items()}
    if json:
        sites = [dict(zip(columns, row, strict=True)) for row in rows]
        output.pairs("", {"path": path, "sites": sites, "attrs": attrs}, as_json=True)
        return
    compared = f"; between sites: {', '.join(map(str, tree.data_vars))}" if tree.data_vars else ""
    width = len(columns) if any(positions for *_, positions in rows) else len(columns) - 1
    shown = Table(f"{path}: results of {len(rows)} sites{compared}", columns[:width], [row[:width] for row in rows])
    output.table(shown, as_json=False)
    output.pairs("What was measured", attrs, as_json=False)


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
    found = probekit.verify(path, repair=repair)
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
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="A metric; may be repeated. By default those that fit the store.",
            autocompletion=completion.metrics,
        ),
    ] = None,
    sites: Sites = None,
    by: Annotated[str, typer.Option(help="The samples' column to group by, or none.")] = "label",
    where: Where = None,
    target: Annotated[
        str | None, typer.Option(help="The samples' column of numbers that correlation and ridge_probe need.")
    ] = None,
    nan: Annotated[Literal["raise", "omit"], typer.Option(help="What to do with samples that hold a NaN.")] = "raise",
    positions: Annotated[
        Literal["mean", "max", "each"] | None,
        typer.Option(
            help="What to do with the positions of feature maps. By default each counts for what counts values "
            "(sparsity, dead, …), and other metrics take their mean."
        ),
    ] = None,
    null: Annotated[
        Literal["permute"] | None,
        typer.Option(help="Measure shuffled labels, too: null, p-value, FDR over nodes."),
    ] = None,
    ci: Annotated[
        Literal["bootstrap", "jackknife"] | None,
        typer.Option(help="Find an interval of each number, over samples."),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Shuffles and draws for --null and --ci.")] = 200,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    within: Annotated[
        str | None, typer.Option(help="The samples' column within whose values labels are shuffled and samples drawn.")
    ] = None,
    together: Annotated[
        str | None,
        typer.Option(help="The column whose equal rows keep one label and are drawn together; row for none."),
    ] = None,
    balance: Annotated[bool, typer.Option("--balance", help="Take as many samples of every class.")] = False,
    seed: Annotated[int, typer.Option(help="Of shuffles and draws.")] = 0,
    scheduler: Annotated[str | None, typer.Option(help="The address of a dask cluster's scheduler.")] = None,
    memory: Annotated[str, typer.Option(help="Maximum memory for activations read from the store.")] = "1GiB",
    out: Annotated[Path | None, typer.Option(help="Write the results here, as a store.")] = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="Show the values of every node, not of whole sites.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the table that is shown here, in full.")] = None,
    json: Json = False,
) -> None:
    """Measure a store; print the headline of each metric at each site, and how to read it."""
    csv = file_to_write(csv, "--csv")
    from probekit._results.missing import said_elsewhere

    with nullcontext() if nodes or json else said_elsewhere():
        tree = probekit.measure(
            path,
            metric,
            sites=sites,
            by=None if by == "none" else by,
            where=where_of(where, path),
            target=target,
            nan=nan,
            positions=positions,
            null=null,
            ci=ci,
            repeats=repeats,
            confidence=confidence,
            within=within,
            together=together,
            balance=balance,
            seed=seed,
            scheduler=scheduler,
            memory=memory,
            out=out,
        )
    for line in _reasons(tree):
        output.paragraph(line)
    _show(tree, path, nodes, csv, json)
    if out is not None:
        output.paragraph(f"Written to {out}.")


def _reasons(tree: xr.DataTree) -> Iterator[str]:
    """Why metrics were measured and others left out, where none were named; and how many samples a class has."""
    for attribute, text in (("default_metrics", "Measured by default"), ("left_out", "Left out")):
        reasons = loads(tree.attrs.get(attribute, "{}"))
        if reasons:
            yield f"{text}: {'; '.join(f'{name} ({reason})' for name, reason in reasons.items())}."
    each_class = loads(tree.attrs.get("balanced", "{}"))
    if each_class:
        counts = "; ".join(f"{number} samples of each class at {site}" for site, number in each_class.items())
        yield f"Balanced by seed {tree.attrs['balanced_by_seed']}: {counts}."


def top(
    path: StorePath,
    by: Annotated[
        str,
        typer.Option(
            help="A metric with a value for each class and node, or for each node.", autocompletion=completion.metrics
        ),
    ] = "auroc",
    per_class: Annotated[int, typer.Option(min=1, help="Nodes of each class.")] = 3,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="A class, by its code or name; may be repeated.", autocompletion=completion.classes
        ),
    ] = None,
    sites: Sites = None,
    smallest: Annotated[
        bool | None, typer.Option(help="Which values are the best; by default those that say most.")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Also show so many samples to which each node answers most.")] = 0,
    memory: Annotated[str, typer.Option(help="Maximum memory for activations read from the store.")] = "1GiB",
    json: Json = False,
) -> None:
    """Show the nodes of a store that tell each class best, and the samples to which they answer most."""
    chosen = classes_of(classes, path)
    measured = probekit.measure(path, by, sites=sites, memory=memory)
    found = probekit.top(measured, by.partition(":")[0], per_class=per_class, classes=chosen, smallest=smallest)
    answers = found.samples(path, samples) if samples else None
    if json:
        tables = {"nodes": found} | ({} if answers is None else {"samples": answers})
        rows = {name: output.records(each.to_dataframe()) for name, each in tables.items()}
        about = {name: getattr(found, name) for name in ("variable", "smallest", "left_out", "repeated")}
        output.pairs("", about | rows, as_json=True)
        return
    output.table(found.table, as_json=False)
    if answers is not None:
        output.table(answers.table, as_json=False)


def _show(tree: xr.DataTree, path: str, nodes: bool, csv: Path | None, json: bool) -> None:
    """What was measured, as a table of sites or of nodes: printed, and written as CSV where asked."""
    from probekit._files import whole_file
    from probekit._results.tables import node_values

    summary = probekit.summary(tree)
    values = node_values(tree) if nodes else summary.to_dataframe()
    if csv is not None:
        with whole_file(csv) as file:
            values.to_csv(file, index=False)
        output.paragraph(f"Written to {csv}.")
    if json:
        output.pairs("", _everything(tree, summary, values), as_json=True)
    elif nodes:
        output.table(Table.from_dataframe(f"{path}: the values of every node", values), as_json=False)
    else:
        output.fitting(f"{path}: {summary.title}", summary.table, summary.long_table)
        output.matrices(tree.to_dataset())
        output.sentences(summary.notes)


def _everything(tree: xr.DataTree, summary: Summary, values: pd.DataFrame) -> dict[str, object]:
    """What JSON has: the attributes, how to read each metric, the rows of the table, and what compares sites."""
    compared = {
        name: {"sites": variable["site"].values.tolist(), "values": variable.values.tolist()}
        for name, variable in tree.data_vars.items()
    }
    return {
        **{str(key): value for key, value in tree.attrs.items()},
        "headlines": {metric: asdict(headline) for metric, headline in summary.headlines.items()},
        "values": output.records(values),
        "compared": compared,
        "notes": summary.notes,
    }
