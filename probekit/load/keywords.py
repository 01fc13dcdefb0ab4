"""Data sets of keyword inputs: dicts from the argument names of a model's forward to the inputs of each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from probekit.errors import DataError
from probekit.load.limits import Limit

__all__ = ["KeywordDataset", "holds_keywords"]

Array: TypeAlias = npt.NDArray[Any]

LABELS = ("labels", "label")
IDS = ("sample_id", "id", "idx")
CLASS_NAMES = "class_names"
POSITIONAL = {f"{letter}{split}" for letter in "xy" for split in ("", "_train", "_test")}


class KeywordDataset(Dataset[dict[str, Any]]):
    """A torch data set of dicts: a tensor for each input, by the name of the model's argument, and the label and id.

    Integers become int64, as token ids are, and floats float32; bools stay bools. `classes` has the names of the
    classes, and is empty without labels; `targets` has the labels. Labels that are floats are targets, not classes: a
    capture keeps them as the column ``target``. `limit` says which samples to take.

    Raises DataError if the arrays of `found` have different numbers of samples, or don't fit their names.
    """

    def __init__(self, name: str, found: Mapping[str, Array], limit: Limit | None = None) -> None:
        given = {key: values for key, values in found.items() if key != CLASS_NAMES}
        _check(name, given)
        labels = next((given[key] for key in LABELS if key in given), None)
        self.sample_columns: dict[str, Any] = {}
        if labels is not None and labels.ndim == 1 and labels.dtype.kind == "f":  # real targets, which aren't classes
            self.sample_columns["target"] = labels
            given = {key: values for key, values in given.items() if values is not labels}
            labels = None
        self.classes = _classes(name, given, found.get(CLASS_NAMES))  # of all samples
        rows = None if limit is None else limit.rows(len(next(iter(given.values()))), labels)
        if rows is not None:
            given = {key: values[rows] for key, values in given.items()}
            self.sample_columns = {key: values[rows] for key, values in self.sample_columns.items()}
            if not any(key in given for key in IDS):
                self.sample_columns["sample_id"] = rows
        self.targets = next((given[key].tolist() for key in LABELS if key in given), None)
        columns = [key for key in given if key in (*LABELS, *IDS) and given[key].ndim == 1]
        self._columns: dict[str, list[Any]] = {key: given[key].tolist() for key in columns}
        self._inputs = {key: given[key] for key in given if key not in columns}
        self._length = len(next(iter(self._inputs.values())))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs = {key: _tensor(values[index]) for key, values in self._inputs.items()}
        return inputs | {key: values[index] for key, values in self._columns.items()}


def holds_keywords(found: Mapping[str, Array]) -> bool:
    """Whether a file's arrays are inputs by name, rather than x and y."""
    return not POSITIONAL & found.keys() and bool(found.keys() - {*LABELS, *IDS, CLASS_NAMES})


def _check(name: str, given: Mapping[str, Array]) -> None:
    shapes = ", ".join(f"{key} {values.shape}" for key, values in given.items())
    if any(values.ndim == 0 for values in given.values()) or len({len(values) for values in given.values()}) > 1:
        raise DataError(f"{name!r} has the arrays {shapes}. Each array must have one row for each sample.")
    if not len(next(iter(given.values()))):
        raise DataError(f"{name!r} has no samples: {shapes}.")
    for key, values in given.items():
        if values.dtype.kind not in "fiub" and key not in (*LABELS, *IDS):
            raise DataError(
                f"{key} of {name!r} has dtype {values.dtype}. Inputs must be numbers; {', '.join(LABELS)} and "
                f"{', '.join(IDS)} may be strings."
            )


def _classes(name: str, given: Mapping[str, Array], names: Array | None) -> list[str]:
    """The names of the classes: those given, otherwise the codes or strings of the labels."""
    key = next((key for key in LABELS if key in given), None)
    if key is None:
        return []
    labels = given[key]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU" or (labels.dtype.kind != "U" and labels.min() < 0):
        raise DataError(
            f"{key} of {name!r} has shape {labels.shape} of {labels.dtype}. Labels must be whole numbers from 0 up, or "
            "strings, one for each sample."
        )
    if names is not None:
        known = [str(each) for each in names]
        _check_named(name, labels, known)
        return known
    return sorted(set(labels.tolist())) if labels.dtype.kind == "U" else [str(code) for code in range(labels.max() + 1)]


def _check_named(name: str, labels: Array, known: list[str]) -> None:
    used = set(labels.tolist())
    strange = used - set(known) if labels.dtype.kind == "U" else {code for code in used if code >= len(known)}
    if strange:
        raise DataError(
            f"{name!r} has {len(known)} class names, {', '.join(map(repr, known))}, but none for the label "
            f"{min(strange)!r}."
        )


def _tensor(value: Any) -> torch.Tensor:
    tensor = torch.as_tensor(value)
    if tensor.dtype == torch.bool:
        return tensor
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)
