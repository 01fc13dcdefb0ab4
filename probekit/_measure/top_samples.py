"""The samples with the largest values at chosen nodes, with what the store knows of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import xarray as xr

from probekit._measure.site_source import Source, as_tree, find_sources
from probekit._store.sample_columns import SAMPLE_ID
from probekit._store.store import open_store
from probekit._table import ShownAsTable, Table
from probekit.errors import DataError, SiteError, check_kind
from probekit.load.images import FOLDER
from probekit.metrics.block import Array

__all__ = ["TopSample", "TopSamples", "check_number", "samples_of"]

_AROUND = 12  # tokens on each side of the marked one, where there is no text
_CONTEXT = 30  # characters on each side of the mark that a table shows
_OPEN, _CLOSE = "«", "»"


@dataclass(frozen=True)
class TopSample:
    """A sample among those with the largest values at a node.

    Attributes:
        site: the site of the node.
        node: the node.
        rank: 0 for the sample with the largest value.
        value: the sample's value at the node.
        sample: its place among the samples of the store.
        sample_id: its id in the store; None where there is none.
        class_name: its class; None where there are no labels.
        text: the sample's text, or the tokens around its own; None where the store has neither. A special token, which
            has no characters in the text, stands in front of it.
        start: where the token begins in the text, in characters; None where nothing is marked.
        end: where it ends.
        path: the sample's file, as the store has it.
        file: where that file is: below the folder that was captured, where the data were a folder of images.
        input: the sample in the data set that was given.
    """

    site: str
    node: int
    rank: int
    value: float
    sample: int
    sample_id: Any = None
    class_name: str | None = None
    text: str | None = None
    start: int | None = None
    end: int | None = None
    path: str | None = None
    file: str | None = None
    input: Any = None

    @property
    def marked(self) -> str | None:
        """The text with its token in « », cut to what is around it."""
        if self.text is None or self.start is None or self.end is None:
            return None if self.text is None else _cut(self.text, 2 * _CONTEXT)
        before, after = self.text[: self.start], self.text[self.end :]
        before = before if len(before) <= _CONTEXT else f"…{before[-_CONTEXT:]}"
        return f"{before}{_OPEN}{self.text[self.start : self.end]}{_CLOSE}{_cut(after, _CONTEXT)}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


@dataclass(frozen=True, repr=False)
class TopSamples(ShownAsTable):
    """The samples to which nodes answer most, in the order of the nodes, those with the largest values first."""

    samples: tuple[TopSample, ...]

    @cached_property
    def table(self) -> Table:
        known = [name for name in _OPTIONAL if any(getattr(each, name) is not None for each in self.samples)]
        names = ["site", "node", "rank", "value", *known]
        rows = [[getattr(each, "marked" if name == "text" else name) for name in names] for each in self.samples]
        return Table("The samples with the largest values", [_HEADS.get(name, name) for name in names], rows)

    def to_dataframe(self) -> pd.DataFrame:
        names = [field.name for field in fields(TopSample) if field.name != "input"]
        return pd.DataFrame([[getattr(each, name) for name in names] for each in self.samples], columns=names)


_HEADS = {"class_name": "class"}
_OPTIONAL = ("sample_id", "class_name", "path", "text")


def check_number(name: str, value: object) -> None:
    """Raise DataError where an argument isn't a number of things, at least one."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(f"{name} is {value!r}; it has to be a number, at least 1.", arguments=(name,))


def samples_of(
    nodes: Sequence[tuple[str, int]], store: str | Path | xr.DataTree, n: int, data: Any, positions: Mapping[str, str]
) -> TopSamples:
    """The `n` samples with the largest values at each of the `nodes`, (site, node), of a store.

    `positions` says how a site's positions were measured, as its results do; `data` gives the samples themselves.
    """
    check_number("n", n)
    check_kind("store", store, (str, Path, xr.DataTree), "the path of a store, or an open one (a DataTree)")
    tree = as_tree(store) if isinstance(store, xr.DataTree) else open_store(store)
    root = tree.to_dataset(inherit=False)
    inputs = None if data is None else _Inputs(data, root)
    found: dict[tuple[str, int], list[TopSample]] = {}
    for site in dict.fromkeys(site for site, _ in nodes):
        source = _source(tree, site, positions.get(site, ""))
        chosen = sorted({node for each, node in nodes if each == site})
        _check_nodes(source, chosen)
        known = _Known(source, root, inputs)
        for node, values, rows in _largest(source, chosen, n):
            found[site, node] = list(known.samples(node, values, rows))
    return TopSamples(tuple(sample for node in dict.fromkeys(nodes) for sample in found[node]))


def _source(tree: xr.DataTree, site: str, positions: str) -> Source:
    """A site of the store; each of its rows counts once."""
    pooling = "mean" if not positions or positions.startswith("mean") else "max"
    sources = {source.name: source for source in find_sources(tree, None, "the store", pooling)}
    if site not in sources:
        raise SiteError(f"The store has no site {site!r}; it has {', '.join(sources)}.", arguments=("store",))
    return sources[site]


def _check_nodes(source: Source, nodes: Sequence[int]) -> None:
    if nodes[-1] >= source.nodes:
        raise DataError(
            f"Site {source.name!r} of the store has {source.nodes} nodes, and the results have a node {nodes[-1]}. "
            "Give the store that was measured.",
            arguments=("store",),
        )


def _largest(source: Source, nodes: Sequence[int], n: int) -> Iterator[tuple[int, Array, Array]]:
    """Each node with its `n` largest values, the largest first, and their rows; each chunk is read once."""
    width = source.chunk[1]
    for column in dict.fromkeys(node // width for node in nodes):
        here = [node for node in nodes if node // width == column]
        values, rows = np.empty((0, len(here))), np.empty((0, len(here)), np.int64)
        for first, x in source.read(here[0], here[-1] + 1):
            values = np.concatenate([values, x[:, np.array(here) - here[0]]])
            rows = np.concatenate([rows, np.repeat(np.arange(first, first + len(x))[:, None], len(here), axis=1)])
            order = np.argsort(-values, axis=0, kind="stable")[:n]  # NaN come last, equal values in their order
            values, rows = np.take_along_axis(values, order, 0), np.take_along_axis(rows, order, 0)
        for index, node in enumerate(here):
            real = ~np.isnan(values[:, index])
            yield node, values[real, index], rows[real, index]


@runtime_checkable
class _Indexed(Protocol):
    """What has a length and an index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class _Inputs:
    """The samples of a data set, in the order of the store's."""

    def __init__(self, data: Any, root: xr.Dataset) -> None:
        pair = isinstance(data, tuple) and len(data) == 2
        self._x: Any = data[0] if pair else data
        self._y: Any = data[1] if pair else None
        check_kind("data", self._x, _Indexed, "a data set with a length and an index, or (x, y)")
        self._labels, samples = root.get("label"), root.sizes.get("sample", 0)
        if len(self._x) != samples:
            raise DataError(
                f"The data have {len(self._x)} samples, and the store has {samples}. Give the data that were captured.",
                arguments=("data",),
            )

    def of(self, sample: int) -> Any:
        """The input of a sample; DataError where its label isn't the store's."""
        item = self._x[sample]
        x, y = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
        y = self._y[sample] if self._y is not None else y
        if y is not None and self._labels is not None and np.ndim(y) == 0:
            label = self._labels.values[sample]
            if int(y) != label:
                raise DataError(
                    f"Sample {sample} of the data has the label {int(y)}, and that of the store {label}. Give the data "
                    "that were captured, in their order.",
                    arguments=("data",),
                )
        return x


class _Known:
    """What is known of the rows of one site."""

    def __init__(self, source: Source, root: xr.Dataset, inputs: _Inputs | None) -> None:
        self._site, self._inputs = source.name, inputs
        self._columns = source.columns(root)
        data = str(root.attrs.get("data", ""))
        self._folder = data.removeprefix(FOLDER) if data.startswith(FOLDER) else ""

    def samples(self, node: int, values: Array, rows: Array) -> Iterator[TopSample]:
        """The samples of some rows, whose values at the node are given in order."""
        places = self._columns.samples_of_rows(rows).tolist()
        ids, paths, classes = self._of(SAMPLE_ID, rows), self._of("path", rows), self._classes(rows)
        for rank, (row, place) in enumerate(zip(rows.tolist(), places, strict=True)):
            text, start, end = self._text(row)
            yield TopSample(
                site=self._site,
                node=node,
                rank=rank,
                value=float(values[rank]),
                sample=place,
                sample_id=ids[rank],
                class_name=classes[rank],
                text=text,
                start=start,
                end=end,
                path=paths[rank],
                file=None if paths[rank] is None else str(Path(self._folder, paths[rank])),
                input=None if self._inputs is None else self._inputs.of(place),
            )

    def _of(self, name: str, rows: Array) -> list[Any]:
        """The values of a column; None for each row where there is no such column."""
        if not self._columns.has(name):
            return [None] * len(rows)
        found: list[Any] = self._columns.find(name)[rows].values.tolist()
        return found

    def _classes(self, rows: Array) -> list[str | None]:
        names = self._columns.class_names
        return [
            None if code is None else names[code] if names and isinstance(code, int) else str(code)
            for code in self._of("label", rows)
        ]

    def _text(self, row: int) -> tuple[str | None, int | None, int | None]:
        """The text of a row with the place of its token, as far as the store knows them."""
        token = self._own("token", row)
        if not self._columns.has("text"):
            return (None, None, None) if token is None else self._tokens_around(row)
        text = str(self._columns.find("text")[row].values)
        start, end = self._own("char_start", row), self._own("char_end", row)
        if token is not None and start == end:  # a special token, such as [CLS], has no characters of its own
            return f"{token} {text}", 0, len(token)
        return text, start, end

    def _own(self, name: str, row: int) -> Any:
        """A value of a row in the site's own columns; None where there is no such column."""
        return self._columns.own[name][row].values.item() if name in self._columns.own else None

    def _tokens_around(self, row: int) -> tuple[str, int, int]:
        """The tokens of a row's sample around the row's own, as a text with its place."""
        first = max(0, row - _AROUND)
        near = slice(first, row + _AROUND + 1)
        own, ids = self._columns.own, self._columns.own[SAMPLE_ID][near].values
        tokens = [str(token) for token in own["token"][near].values]
        same = [place for place, each in enumerate(ids) if each == ids[row - first]]
        before = " ".join([*(tokens[place] for place in same if place < row - first), ""])
        after = " ".join(["", *(tokens[place] for place in same if place > row - first)])
        token = tokens[row - first]
        return f"{before}{token}{after}", len(before), len(before) + len(token)
