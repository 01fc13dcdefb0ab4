"""The classes of labels: their codes, and their names as a data set tells them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Subset

from probekit._data.columns import Array
from probekit._data.loaders import Joined, is_hugging_face
from probekit.errors import DataError, near

__all__ = ["Classes", "class_names", "unsure_names"]

MOST_CODES = 2**16  # integers below are class codes as they are
_ADVICE = " Give labels of one kind, or all names with class_names=."


class Classes:
    """The codes of labels: integers as they are, strings by their index among the class names.

    Without names, strings are numbered in the order in which they first appear, and `names` grows with them. So are
    integers of `MOST_CODES` or more, whose names are their digits: a code is also the number of a class.
    """

    def __init__(self, names: Sequence[str] | None = None, *, given: bool = True) -> None:
        self._known = names is not None
        self._given = given  # by the user, and not by a data set
        self._names = list(names or ())
        self._codes = {name: code for code, name in reversed(list(enumerate(self._names)))}
        self._kind: str | None = None  # of the labels so far

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the classes 0, 1, …; None where none are known."""
        return tuple(self._names) if self._known or self._names else None

    def begin_with(self, names: Sequence[str]) -> None:
        """Have names that appear follow these; without effect where the names are known."""
        if not self._known:
            self._names = list(names)
            self._codes = {name: code for code, name in reversed(list(enumerate(self._names)))}

    @property
    def grow(self) -> bool:
        """Whether classes are numbered as they appear."""
        return not self._known and self._kind in ("strings", "large integers")

    def codes(self, labels: Array, what: str, *, every: bool = False) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 codes of `labels`, a column; with `every`, of all labels that there are.

        Raises:
            DataError: they are neither integers from 0 nor strings, turn from one to the other between calls, have no
                class name, or are too many.
        """
        if not labels.size:
            return np.zeros(labels.shape, np.int64)
        self._check(labels, what)
        kind = self._kind_of(labels)
        if self._kind not in (None, kind):
            raise DataError(f"{what} are {kind}, unlike those before them, which are {self._kind}.{_ADVICE}")
        self._kind = kind
        if kind == "integers":
            self._check_named(labels, what)
            return labels.astype(np.int64)
        distinct, places = np.unique(labels, return_inverse=True)
        if kind == "large integers" and every and len(distinct) == len(labels) > 1:
            raise DataError(
                f"{what} are {len(labels)} integers, each of them once, such as {labels[0]}: that many classes have "
                "one sample each. If they are ids, give them as ids=; if they are targets, as columns=, with "
                "labels=False.",
                arguments=("labels", "ids", "columns"),
            )
        order = np.argsort(np.unique(labels, return_index=True)[1])  # of first appearance
        codes = np.empty(len(distinct), np.int64)
        codes[order] = [self._code(str(distinct[place]), what) for place in order]
        found: np.ndarray[Any, np.dtype[np.int64]] = codes[places.reshape(labels.shape)]
        return found

    def _kind_of(self, labels: Array) -> str:
        if labels.dtype.kind == "U":
            return "strings"
        large = not self._known and labels.dtype.kind == "i" and int(labels.max()) >= MOST_CODES
        return "large integers" if large or self._kind == "large integers" else "integers"

    def _check(self, labels: Array, what: str) -> None:
        whole = labels.dtype.kind in "ib"
        if labels.dtype.kind != "U" and (not whole or labels.min() < 0):
            wrong = f"go down to {labels.min()}" if whole else f"are {labels[:3]}…"
            leave = f", ignore_label={labels.min()} to leave those samples out" if whole else ""
            raise DataError(
                f"{what} {wrong}: give class codes, integers from 0, or strings{leave}; or labels=False for none.",
                arguments=("labels", "ignore_label"),
            )

    def _check_named(self, labels: Array, what: str) -> None:
        if self._known and int(labels.max()) >= len(self._names):
            whose = "class_names= has" if self._given else "the data set's own classes are"
            raise DataError(
                f"{what} go up to {labels.max()}, and {whose} {len(self._names)} names: {_some(self._names)}. Give "
                "class_names=, a name for each code from 0.",
                arguments=("class_names",),
            )

    def _code(self, name: str, what: str) -> int:
        if self._known and name not in self._codes:
            raise DataError(
                f"{what} hold {name!r}, which is not among the {len(self._names)} class names."
                f"{near(name, self._codes)}",
                arguments=("class_names",),
            )
        if name not in self._codes:
            if len(self._names) == MOST_CODES:
                raise DataError(f"{what} make more than {MOST_CODES} classes. Give labels of fewer classes, or none.")
            self._codes[name] = len(self._names)
            self._names.append(name)
        return self._codes[name]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (" …" if len(names) > 3 else "")


def class_names(data: Any, key: Any) -> tuple[str, ...] | None:
    """The class names that a data set, or the one within a loader or a subset, tells.

    These are the ``classes`` of torchvision's, or the ``names`` of a Hugging Face feature: the one called `key`, or the
    first there is where `key` is a tuple. A data set with a ``target_transform`` gives other labels than these name,
    and one that wraps another may.
    """
    data = _innermost(data)
    if is_hugging_face(data):
        names = _feature_names(data.features, key)
    else:
        names = None if getattr(data, "target_transform", None) is not None else getattr(data, "classes", None)
    if not isinstance(names, Sequence | np.ndarray) or isinstance(names, str):
        return None
    return tuple(", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name) for name in names)


def unsure_names(data: Any) -> str | None:
    """The class of a data set whose ``classes`` nothing but their name says to be those of its labels; None for others.

    Data sets as torchvision makes them, and subsets, which may lack classes, aren't doubted.
    """
    inner = _innermost(data)
    known = is_hugging_face(inner) or any(hasattr(inner, name) for name in ("targets", "target_transform"))
    subset = type(getattr(data, "dataset", data)) is Subset or type(data) is Subset
    return None if known or subset else type(inner).__name__


def _innermost(data: Any) -> Any:
    """The data set within loaders and subsets."""
    while type(data) is Subset or isinstance(data, DataLoader | Joined):
        data = data.dataset
    return data


def _feature_names(features: Any, key: Any) -> Any:
    keys = key if isinstance(key, tuple) else (key,)
    feature = next((features[each] for each in keys if features and each in features), None)
    return getattr(feature, "names", None)
