"""The fields of an item of data: where labels, ids, columns and inputs are in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from probekit._data.columns import as_column
from probekit.errors import DataError

__all__ = [
    "ID_KEYS",
    "LABEL",
    "LABEL_KEYS",
    "NOUNS",
    "SAMPLE_ID",
    "Item",
    "Source",
    "argument_of",
    "sources_of",
]

LABEL, SAMPLE_ID = "label", "sample_id"
LABEL_KEYS = ("labels", "label")
ID_KEYS = ("sample_id", "id", "idx")
NOUNS = {LABEL: "labels", SAMPLE_ID: "sample ids"}


@dataclass(frozen=True)
class Source:
    """Where the values of one column come from, and the argument that says so."""

    option: str
    kind: Literal["default", "none", "key", "call", "all", "value"]
    given: Any = None
    constant: bool = False  # whether a key that can't be one of an item's is a value instead

    def check_holds(self, samples: int) -> None:
        """Raise DataError where values given for all samples aren't as many."""
        if len(self.given) != samples:
            raise DataError(
                f"{self.option} holds {len(self.given)} values, and the data hold {samples} samples.",
                arguments=(argument_of(self.option),),
            )


def sources_of(labels: Any, ids: Any, columns: Mapping[str, Any]) -> dict[str, Source]:
    for name in columns:
        if not isinstance(name, str) or not name or name in (*LABEL_KEYS, SAMPLE_ID):
            raise DataError(
                f"columns has {name!r}. Name columns by strings, and give labels= and ids= as arguments.",
                arguments=("columns", "labels", "ids"),
            )
    given = {LABEL: _standard("labels=", labels), SAMPLE_ID: _standard("ids=", ids)}
    return given | {name: _source(f"columns[{name!r}]", value, constant=True) for name, value in columns.items()}


def _standard(option: str, given: Any) -> Source:
    if given is None or given is False:
        return Source(option, "none" if given is False else "default")
    return _source(option, given, constant=False)


def _source(option: str, given: Any, *, constant: bool) -> Source:
    if isinstance(given, str | int) and not isinstance(given, bool):
        return Source(option, "key", given, constant)
    if callable(given):
        return Source(option, "call", given)
    values = as_column(given, f"The values of {option}")
    if values.ndim > 1 or (values.ndim == 0 and not constant):
        raise DataError(
            f"{option} has shape {values.shape}. Give one value for each sample, a key, an index, or a callable.",
            arguments=(argument_of(option),),
        )
    return Source(option, "all" if values.ndim else "value", values)


def argument_of(option: str) -> str:
    """The argument's own name: ``labels`` for ``labels=``, ``columns`` for ``columns['age']``."""
    return option.partition("[")[0].rstrip("=")


class Item:
    """One item of the data: columns are taken out of it, and the rest is the model's."""

    def __init__(self, item: Any, index: int) -> None:
        self.whole = item
        self.index = index
        self.keyed = isinstance(item, Mapping)
        self._listed = isinstance(item, tuple | list)
        self._parts: dict[Any, Any] = dict(item) if self.keyed else dict(enumerate(item if self._listed else (item,)))
        self._rest = dict(self._parts)
        self._taken: set[Any] = set()

    def __str__(self) -> str:
        if self.keyed:
            return f"a dict with the keys {', '.join(map(repr, self._parts))}"
        size = f" of {len(self._parts)} items" if self._listed else ""
        return f"a {type(self.whole).__name__}{size}"

    def key(self, source: Source) -> Any:
        """The key or index that the source means; None if it doesn't mean one here."""
        key = source.given
        if source.kind != "key":
            return None
        fits = isinstance(key, str) if self.keyed else self._listed and isinstance(key, int)
        if not fits:
            if source.constant:
                return None
            raise DataError(
                f"{source.option}{key!r} can't be found in batch {self.index}, which is {self}.",
                arguments=(argument_of(source.option),),
            )
        return key + len(self._parts) if not self.keyed and key < 0 else key

    def take(self, key: Any, option: str, *, keep: bool = False) -> Any:
        if key not in self._parts:
            hint = " For one value for all samples, give lambda item: value." if option.startswith("columns") else ""
            raise DataError(
                f"Batch {self.index} is {self}, and {option} asks for {key!r}.{hint}",
                arguments=(argument_of(option),),
            )
        if key in self._taken:
            raise DataError(
                f"{option} asks for {key!r} of batch {self.index}, which another column takes.",
                arguments=(argument_of(option),),
            )
        self._taken.add(key)
        return self._parts[key] if keep else self._rest.pop(key)

    def check_not_label(self, key: Any, option: str) -> None:
        if not self.keyed and (len(self._parts), key) == (2, 1):
            raise DataError(
                f"{option} asks for 1 of batch {self.index}, a pair, whose second item is the label unless labels= "
                "says otherwise. For one value for all samples, give lambda item: value.",
                arguments=("columns", "labels"),
            )

    def label_key(self) -> Any:
        """Where labels are by custom: the keys of a dict, the second of two items."""
        free = [key for key in self._rest if key not in self._taken]
        if self.keyed:
            return next((key for key in LABEL_KEYS if key in free), None)
        if len(free) > 2:
            raise DataError(
                f"Batch {self.index} is {self}, any of which may be the label. Say which with labels=INDEX (the others "
                "are then positional inputs), take others as ids= or columns=, or give labels=False for none.",
                arguments=("labels", "ids", "columns"),
            )
        return free[1] if len(free) == 2 else None

    def id_key(self) -> Any:
        return next((key for key in ID_KEYS if key in self._rest and _are_ids(self._rest[key])), None)

    def rest(self) -> Any:
        """The model's inputs: a dict, one value, or a tuple of several."""
        values = tuple(self._rest.values())
        return self._rest if self.keyed else values[0] if len(values) == 1 else values


def _are_ids(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return bool(values) and all(isinstance(value, str | int) for value in values)
    if isinstance(values, Tensor):
        return values.dim() == 1 and not values.is_floating_point()
    return isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iuU"
