"""The user's data as one stream of batches: inputs, columns of one value a sample, and the number of samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from numbers import Integral
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import torch

from probekit._data.classes import Classes, unsure_names
from probekit._data.classes import class_names as names_in
from probekit._data.columns import Array, as_column
from probekit._data.fields import LABEL, LABEL_KEYS, NOUNS, SAMPLE_ID, Item, Source, argument_of, sources_of
from probekit._data.inputs import as_tensors, check_differ, choose_rows, count_rows, given_rows, readers
from probekit._data.loaders import Slices, batch_size_of, chunks_of, count_of, cut, order_fault, rows_of, stream
from probekit._data.own_columns import own_columns
from probekit._data.tokens import tokens_of
from probekit._tokens import TokenDict, Tokens
from probekit.errors import DataError, check_kind

__all__ = ["BATCH_SIZE", "Batch", "Batches", "Rows", "peek"]

BATCH_SIZE = 256  # samples, where nobody says how many

Rows: TypeAlias = Callable[[Any], Any]  # of a batch's inputs: their number of samples, or a pair with each row's sample


@dataclass(frozen=True)
class Batch:
    """The inputs of one forward pass, and the columns of its samples.

    `columns` holds one array of `rows` values by name: ``label`` (int64 codes) where the data are labelled,
    ``sample_id`` where they carry ids, and the columns asked for (int64, float64, bool or str). `start` is the number
    of its first sample in the data. `tokens` has what is known of the samples' real tokens. `owners` says to which
    sample each row of a site belongs, as `rows` of the `Batches` does, by selector or for all sites; it is empty where
    that says only how many samples there are. `padded` batches hold texts, (sample, position), padded on the right to
    the longest of them.
    """

    inputs: Any
    rows: int
    columns: dict[str, Array]
    start: int = 0
    owners: Any = None
    tokens: Tokens | None = None
    padded: bool = False

    @property
    def labels(self) -> Array | None:
        """The samples' class codes, where they are labelled."""
        return self.columns.get(LABEL)


class Batches:
    """The batches of `data`, in order; the last one may be short.

    Each item is a dict, a tuple (or list), or a bare tensor or array. Labels, ids and columns are taken out of it, and
    what is left is the model's: a dict by keyword, several items of a tuple by position. To give several positional
    inputs beside a label, nest them: ``((x, mask), y)``. Arrays become tensors of the same dtype without a copy where
    torch can share them; tensors are passed on as they are.

    Args:
        data: a DataLoader (which keeps its own batch size), a torch or Hugging Face data set (read in order; the
            latter as torch tensors unless it has a format), tensors or arrays of all samples (one, a tuple, or a dict
            of them), or an iterable of batches.
        batch_size: samples a batch, where the data don't come in batches.
        workers: processes that read a data set, 0 for this one.
        labels: where the labels are. None: the second item of a pair; the key ``labels`` or ``label`` of a dict. A key
            (str) of dicts, an index (int) into tuples, a callable ``item -> labels``, or the labels of all samples in
            order (a sequence, array or tensor). False: there are none, and all of an item is the model's. A callable
            or a sequence replaces the labels that the data carry. Tuples of three items or more need an index or False.
        columns: further values a sample, by name, beside those in the data set's attribute ``sample_columns``, a dict
            of values of all samples: each a key of dicts, an index into tuples, a callable
            ``item -> values``, the values of all samples in order, or one value for all samples. For dicts a str is
            always a key and for tuples an int always an index: there, give one value as ``lambda item: "train"``.
        ids: where the samples' ids are, as in `labels`. None: the first of the keys ``sample_id``, ``id``, ``idx`` that
            holds one integer or string a sample. False: there are none.
        keep_labels: leave labels among the inputs too, for models that compute their own loss.
        class_names: the names of the classes 0, 1, …; by default the data set's ``classes`` or ``features``, unless
            `labels` is a callable or a sequence, or the data set has a ``target_transform``.
        ignore_label: a label, or several, whose samples are left out, such as -100.
        rows: how many samples a batch has, where its inputs have different lengths: a callable of the inputs that
            returns their number, or a pair of it and the index of the sample that each row of a site belongs to: a
            tensor, or such by selector.

    Labels are codes from 0, or strings: those are looked up in the class names or, where there are none, numbered by
    first appearance. So are integers of 65,536 or more, such as WordNet's ids, whose names are their digits.

    Attributes:
        rows: the number of samples, of all processes together where several share the data; None where the data can't
            say.
        chunks: the sampler that says which of the samples are this process's, where there is one.
        batch_rows: the samples that a loader puts into a batch.
        count: the number of batches, None where the data can't say.

    Raises:
        DataError: something doesn't fit together. An error that shows only in a batch is raised at that batch, with
            its number; labels and columns in memory are checked with the first one.

    Example:
        >>> import numpy as np
        >>> x, animals = np.zeros((5, 3)), ["cat", "dog", "cat", "eel", "dog"]
        >>> batches = Batches((x, animals), batch_size=2, columns={"split": "train"})
        >>> [batch.columns["label"].tolist() for batch in batches], batches.class_names
        ([[0, 1], [0, 2], [1]], ('cat', 'dog', 'eel'))
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int = BATCH_SIZE,
        workers: int = 0,
        labels: Any = None,
        columns: Mapping[str, Any] | None = None,
        ids: Any = None,
        keep_labels: bool = False,
        class_names: Sequence[str] | None = None,
        ignore_label: int | str | Collection[int | str] | None = None,
        rows: Rows | None = None,
    ) -> None:
        check_kind("batch_size", batch_size, Integral, "a number of samples")
        check_kind("columns", columns, (Mapping, NoneType), "columns by name, {name: where its values are}")
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; it must be at least 1.", arguments=("batch_size",))
        if isinstance(class_names, str):
            raise DataError(
                f"class_names is {class_names!r}, one string. Give a list of names.", arguments=("class_names",)
            )
        own = own_columns(data)
        theirs = own.pop(SAMPLE_ID, None)
        ids = theirs if ids is None else ids
        self._sources = sources_of(labels, ids, own | dict(columns or {}))
        self._label_source = self._sources[LABEL]
        self._keep_labels = keep_labels
        self._rows_of, self._ignored = rows, _several(ignore_label)
        self._data = stream(data, batch_size, workers)
        self.chunks = chunks_of(self._data)
        self.batch_rows = batch_size_of(self._data)
        self.rows = rows_of(self._data) if self.chunks is None else self.chunks.total
        self._check_order()
        if self._ignored or rows is not None:
            self._require_one_process()
            self.rows = None  # nobody knows before the last batch
        self.count = count_of(self._data)
        theirs = self._label_source.kind in ("default", "key") and class_names is None
        names = names_in(data, LABEL_KEYS if labels is None else labels) if theirs else class_names
        names = names or None  # a data set without labels may have none
        self._classes = Classes(names, given=class_names is not None)
        self._unsure = unsure_names(data) if theirs and names is not None else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where known; grows as new string labels appear, whole after an iteration.

        For data in memory they are whole with the first batch.
        """
        return self._classes.names

    def begin_with(self, names: Sequence[str]) -> None:
        """Have string labels that appear follow these names; without effect where the names are known."""
        self._classes.begin_with(names)

    @property
    def names_grow(self) -> bool:
        """Whether classes are numbered in the order in which their names appear."""
        return self._classes.grow

    def __iter__(self) -> Iterator[Batch]:
        one_by_one = any(source.kind == "call" for source in self._sources.values())
        whole = isinstance(self._data, Slices) and not one_by_one and not self._ignored and self._rows_of is None
        seen: set[int] = set()
        for batch in self._in_memory(self._data) if whole and isinstance(self._data, Slices) else self._streamed():
            if self._unsure is not None and batch.labels is not None:
                seen.update(batch.labels.tolist())
            yield batch
        if seen:
            self._warn_of_empty(seen)

    def _warn_of_empty(self, seen: Collection[int]) -> None:
        empty = [name for code, name in enumerate(self.class_names or ()) if code not in seen]
        if empty:
            warnings.warn(
                f"No sample has the label {', '.join(map(repr, empty[:3]))}{' …' if empty[3:] else ''}. The names of "
                f"the classes are {self._unsure}.classes; if its labels mean something else, give class_names=.",
                stacklevel=3,
            )

    def _in_memory(self, data: Slices) -> Iterator[Batch]:
        """The batches of what is in memory, with columns that are made once, of all samples, not batch by batch."""
        item = Item(data.whole, 0)
        columns = self._coded(self._columns(self._take(item), 0, data.rows, None), None)
        whole = item.rest()
        for span in data.spans():
            inputs = as_tensors(cut(whole, span), item.index)
            of_batch = {name: column[span] for name, column in columns.items()}
            yield Batch(inputs, count_rows(inputs, item), of_batch, span.start, tokens=tokens_of(inputs))

    def _streamed(self) -> Iterator[Batch]:
        starts = None if self.chunks is None else self.chunks.starts(self.batch_rows)
        read = start = 0  # samples so far, and those of them that aren't left out
        kinds: dict[str, str | None] | None = None
        firsts: list[Any] = []
        for index, item in enumerate(self._data):
            read = read if starts is None else next(starts)
            batch = self._batch(Item(item, index), read)
            read += batch.rows
            if self._ignored:
                batch = replace(self._without_ignored(batch), start=start)
                if not batch.rows:
                    continue
            batch = replace(batch, columns=self._coded(batch.columns, index))
            kinds = _check_alike(batch, index, kinds)
            start += batch.rows
            if index < readers(self._data):
                firsts = check_differ(firsts, batch.inputs)
            yield batch
        for source in self._sources.values():
            if source.kind == "all" and starts is None:
                source.check_holds(read)

    def _require_one_process(self) -> None:
        if self.chunks is not None:
            raise DataError(
                "With ignore_label= or rows= the number of a sample is known only after those before it. Capture in "
                "one process, without a ChunkSampler.",
                arguments=("ignore_label", "rows"),
            )

    def _without_ignored(self, batch: Batch) -> Batch:
        """The batch without the samples whose label is left out; the others keep their numbers in the data."""
        if LABEL not in batch.columns:
            raise DataError("ignore_label= leaves samples out by their labels, and the data have none.")
        keep = ~np.isin(batch.columns[LABEL], self._ignored)
        numbers = {SAMPLE_ID: np.arange(batch.start, batch.start + batch.rows)}
        columns = {name: column[keep] for name, column in (numbers | batch.columns).items()}
        if keep.all():
            return replace(batch, columns=columns)
        if batch.owners is not None:
            raise DataError("ignore_label= can't leave samples out of a batch whose rows= has several rows a sample.")
        index = torch.from_numpy(np.flatnonzero(keep))
        inputs = choose_rows(batch.inputs, batch.rows, index)
        tokens = None if batch.tokens is None else batch.tokens.of(np.flatnonzero(keep))
        return replace(batch, inputs=inputs, rows=len(index), columns=columns, tokens=tokens)

    def _check_order(self) -> None:
        """Values of all samples must be as many as the samples, and have an order to go by."""
        for source in self._sources.values():
            if source.kind != "all":
                continue
            fault = order_fault(self._data)
            if fault is not None:
                raise DataError(
                    f"{source.option} holds the values of all samples in order, and {fault}. Give a loader with "
                    "shuffle=False and no sampler or collate_fn, or have the data set return the value with each "
                    "sample.",
                    arguments=(argument_of(source.option),),
                )
            known = self.rows
            if known is not None:
                source.check_holds(known)

    def _batch(self, item: Item, start: int) -> Batch:
        found = self._take(item)
        inputs = as_tensors(item.rest(), item.index)
        rows, owners = (count_rows(inputs, item), None) if self._rows_of is None else given_rows(self._rows_of(inputs))
        columns = self._columns(found, start, rows, item.index)
        padded = isinstance(item.whole, TokenDict)
        return Batch(inputs, rows, columns, start, owners, tokens_of(inputs, item.whole), padded)

    def _columns(self, found: dict[str, Any], start: int, rows: int, index: int | None) -> dict[str, Array]:
        """The columns of so many samples, from `start` on: what was `found` with them, and their part of what is given.

        They are the batch number `index`, or all samples where that is None.
        """
        for name, source in self._sources.items():
            if source.kind == "all":
                found[name] = _part(source, start, rows, index)
        return {name: _column(name, values, rows, index) for name, values in found.items()}

    def _coded(self, columns: dict[str, Array], index: int | None) -> dict[str, Array]:
        """The columns with codes for labels."""
        if LABEL not in columns:
            return columns
        codes = self._classes.codes(columns[LABEL], f"The labels{_of(index)}", every=index is None)
        return columns | {LABEL: codes}

    def _take(self, item: Item) -> dict[str, Any]:
        """The values that the item itself holds, by column, taken out of it."""
        found: dict[str, Any] = dict(item.whole.columns) if isinstance(item.whole, TokenDict) else {}
        for name, source in self._sources.items():
            key = item.key(source)
            if key is not None:
                if source.constant and self._label_source.kind == "default":
                    item.check_not_label(key, source.option)
                found[name] = item.take(key, source.option, keep=name == LABEL and self._keep_labels)
            elif source.kind == "call":
                found[name] = source.given(item.whole)
            elif source.kind in ("key", "value"):
                found[name] = source.given
        if self._sources[SAMPLE_ID].kind == "default" and (key := item.id_key()) is not None:
            found[SAMPLE_ID] = item.take(key, "ids=")
        if self._label_source.kind not in ("none", "key") and (key := item.label_key()) is not None:
            theirs = item.take(key, "labels=", keep=self._keep_labels)
            self._replace(found, theirs, item)
        return found

    def _replace(self, found: dict[str, Any], theirs: Any, item: Item) -> None:
        """The item's own labels, unless `labels` gives others; then they have at least to look like labels."""
        if self._label_source.kind == "default":
            found[LABEL] = theirs
        elif not item.keyed and np.ndim(as_column(theirs, f"The second item of batch {item.index}")) != 1:
            raise DataError(
                f"Batch {item.index} is a pair, whose second item is not one label per sample. If it is an input, nest "
                "the inputs: ((x, z),); labels= then gives the labels.",
                arguments=("labels",),
            )


def _several(given: Any) -> list[Any]:
    return [] if given is None else [given] if isinstance(given, int | str | np.integer) else list(given)


def _part(source: Source, start: int, rows: int, index: int | None) -> Array:
    if start + rows > len(source.given):
        raise DataError(
            f"{source.option} holds {len(source.given)} values, and the data hold more samples: batch {index} ends "
            f"after {start + rows}.",
            arguments=(argument_of(source.option),),
        )
    part: Array = source.given[start : start + rows]
    return part


def _of(index: int | None) -> str:
    return "" if index is None else f" of batch {index}"


def _column(name: str, values: Any, rows: int, index: int | None) -> Array:
    noun = NOUNS.get(name, f"{name!r}")
    column = as_column(values, f"The {noun}{_of(index)}")
    if column.ndim == 0 and name not in NOUNS:
        return np.full(rows, column)
    if column.shape != (rows,):
        advice = "give one label per sample, say where they are with labels=, or labels=False for none"
        who = "The data have" if index is None else f"Batch {index} has"
        raise DataError(
            f"{who} {rows} samples, and {noun} of shape {column.shape}: "
            f"{advice if name == LABEL else 'give one value per sample'}.",
            arguments=("labels",) if name == LABEL else (),
        )
    return column


def _check_alike(batch: Batch, index: int, before: dict[str, str | None] | None) -> dict[str, str | None]:
    """The kind of each column, which every batch must share; None while all batches were empty."""
    # An empty list says nothing about what it would hold.
    kinds = {name: column.dtype.kind if batch.rows else None for name, column in batch.columns.items()}
    if before is None or kinds == before:
        return kinds
    for name in sorted(kinds.keys() ^ before.keys()):
        has = "has no" if name in before else "has"
        raise DataError(f"Batch {index} {has} {NOUNS.get(name, repr(name))}, unlike those before it.")
    for name, kind in kinds.items():
        if None not in (kind, before[name]) and kind != before[name]:
            raise DataError(
                f"Batch {index} has {NOUNS.get(name, repr(name))} of dtype {batch.columns[name].dtype}, unlike those "
                "before it."
            )
    return {name: before[name] or kind for name, kind in kinds.items()}


def peek(batches: Batches) -> tuple[Batch, Iterator[Batch]]:
    """The first batch of the data, and the stream that still begins with it; DataError where there is none."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None or not first.rows:
        raise DataError("The data hold no samples.")
    return first, chain([first], stream)
