"""Results as pandas tables."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from probekit.errors import RESULTS, DataError, check_kind, near

__all__ = ["node_values", "to_dataframe"]


def to_dataframe(measured: xr.DataTree, *variables: str) -> pd.DataFrame:
    """A row for each site and each value of the dims that the `variables` have, and a column for each of them.

    The dims and their coordinates, such as `label`, `class_name` and `node`, are columns too. Sites that lack one of
    the variables are left out.

    Raises:
        DataError: no site has such a variable, or their dims differ.

    Example:
        >>> import torch, probekit as pk
        >>> m = pk.measure_live(torch.nn.Sequential(torch.nn.ReLU()), torch.eye(2), ["mean", "std"], sites="0")
        >>> pk.to_dataframe(m, "mean", "std")
          site  node  mean  std
        0    0     0   0.5  0.5
        1    0     1   0.5  0.5
    """
    check_kind("measured", measured, xr.DataTree, RESULTS)
    for name in variables:
        check_kind("variables", name, str, "names of measured variables, each a string")
    if not variables:
        raise DataError("No variable was named. Name at least one, for the columns of the table.")
    known = list(dict.fromkeys(str(name) for group in measured.children.values() for name in group.data_vars))
    for name in variables:
        if name not in known:
            raise DataError(f"No site has a variable {name!r}; there are {', '.join(known)}.{near(name, known)}")
    frames = []
    for key, group in measured.children.items():
        if all(name in group.data_vars for name in variables):
            chosen = group.to_dataset()[list(variables)]
            dims = {chosen[name].dims for name in variables}
            if len(dims) > 1:
                raise DataError(
                    f"{', '.join(variables)} have the dims {' and '.join(map(str, sorted(dims)))}, so they aren't "
                    "columns of one table. Ask for them one by one."
                )
            frame = chosen.to_dataframe().reset_index() if dims != {()} else _one_row(chosen)
            frame.insert(0, "site", str(group.attrs.get("site", key)))
            frames.append(frame)
    if not frames:
        raise DataError(f"No site has all of {', '.join(variables)}. Ask for them one by one.")
    table = pd.concat(frames, ignore_index=True)
    return table[[*(name for name in table.columns if name not in variables), *variables]]


def node_values(measured: xr.DataTree) -> pd.DataFrame:
    """A row for each value of a node: its site, its variable, its other dims as columns, and the `value`.

    Variables of pairs of classes are left out.
    """
    frames = []
    for key, group in measured.children.items():
        for name, variable in group.data_vars.items():
            if "node" in variable.dims and "label_b" not in variable.dims:
                one = to_dataframe(xr.DataTree.from_dict({key: group.to_dataset()[[name]]}), str(name))
                one.insert(1, "variable", str(name))
                frames.append(one.rename(columns={str(name): "value"}))
    if not frames:
        raise DataError("No metric gives values of nodes. Measure one that does, such as 'mean'.")
    table = pd.concat(frames, ignore_index=True)
    return table[[*(name for name in table.columns if name != "value"), "value"]]


def _one_row(chosen: xr.Dataset) -> pd.DataFrame:
    return pd.DataFrame({str(name): [variable.item()] for name, variable in chosen.data_vars.items()})
