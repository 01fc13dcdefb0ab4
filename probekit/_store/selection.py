"""Classes of results, or samples of a store, chosen by the names of the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from probekit._store.class_names import places_of
from probekit._store.layout import CLASS_NAME
from probekit.errors import DataError, check_kind

__all__ = ["sel"]

LABEL = "label"


def sel(tree: xr.DataTree, *, label: Any) -> xr.DataTree:
    """The part of results, or of an open store, that belongs to some classes, given by name or by code.

    Results keep these classes along their dim ``label``, which a single class loses, as it does in xarray's ``sel``;
    what has no such dim stays as it is. A store keeps the samples, and the rows of tokens, of these classes; nothing is
    read but their labels.

    Args:
        tree: what `probekit.measure`, `probekit.measure_live` or `probekit.open` gave.
        label: a name or a code, or several of them.

    Raises:
        DataError: there is no such class, or there are no labels.

    Example:
        >>> import torch, probekit as pk
        >>> model, names = torch.nn.Sequential(torch.nn.Identity()), ["ant", "bee"]
        >>> m = pk.measure_live(model, (torch.eye(4), torch.arange(4) % 2), "mean", sites="0", class_names=names)
        >>> pk.sel(m, label="bee")["0"]["mean"].values
        array([0. , 0.5, 0. , 0.5])
    """
    check_kind("tree", tree, xr.DataTree, "results, or an open store, a DataTree")
    groups = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    if not any(LABEL in data.coords for data in groups.values()):
        raise DataError("There are no labels to choose by.", arguments=("label",))
    root = groups["/"]
    names = [str(name) for name in root[CLASS_NAME].values] if CLASS_NAME in root.variables else []
    return xr.DataTree.from_dict({path: _of_classes(data, label, names) for path, data in groups.items()})


def _of_classes(data: xr.Dataset, label: Any, names: list[str]) -> xr.Dataset:
    """One group: a site, or the root; `names` are those of the classes of a store."""
    if LABEL not in data.coords:
        return data
    labels = data[LABEL]
    if labels.dims == (LABEL,):
        places = places_of(label, labels.values.tolist(), list(map(str, data[CLASS_NAME].values)), "label")
        return data.isel({LABEL: places[0] if np.ndim(label) == 0 and len(places) == 1 else places})
    known = range(len(names)) if names else np.unique(labels.values).tolist()
    codes = np.array(known)[places_of(label, known, names or list(map(str, known)), "label")]
    return data.isel({labels.dims[0]: np.flatnonzero(np.isin(labels.values, codes))})
