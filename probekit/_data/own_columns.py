"""The columns that a data set carries itself, of all its samples: its attribute ``sample_columns``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Subset

from probekit._data.loaders import order_fault

__all__ = ["own_columns"]


def own_columns(data: Any) -> dict[str, Any]:
    """The values of all samples by column, in the order in which `data`, a data set or a loader of one, gives them.

    Where nobody knows that order, a warning says that they aren't kept.
    """
    dataset = data.dataset if isinstance(data, DataLoader) else data
    found = _of_dataset(dataset)
    fault = order_fault(data) if found else None
    if fault is None:
        return found
    warnings.warn(
        f"{', '.join(map(repr, found))}, which {type(dataset).__name__} knows of its samples, can't be kept: {fault}.",
        stacklevel=4,
    )
    return {}


def _of_dataset(dataset: Any) -> dict[str, Any]:
    if type(dataset) is Subset:
        indices = np.asarray(dataset.indices, np.int64)
        return {name: np.asarray(values)[indices] for name, values in _of_dataset(dataset.dataset).items()}
    columns = getattr(dataset, "sample_columns", None)
    return dict(columns) if isinstance(columns, Mapping) else {}
