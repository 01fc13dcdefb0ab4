"""``.probekit`` on xarray's trees, datasets and arrays: the functions that take them, as methods."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import xarray as xr

import probekit

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FIGURES", "Accessor", "Plots"]

# The functions of probekit.plot that draw one tree of results.
FIGURES = (
    *("by_class", "by_position", "by_step", "confusion", "distribution_grid", "distributions", "heatmap"),
    *("heatmap_grid", "matrix", "medians", "pairs", "profile", "standard"),
)


class Plots:
    """The figures of probekit.plot that draw one tree: ``m.probekit.plot.medians()``; called, the standard set."""

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.standard(*arguments, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FIGURES:
            raise AttributeError(f"There is no figure {name!r} of one tree; there are {', '.join(FIGURES)}.")
        return MethodType(getattr(probekit.plot, name), self._tree)

    def __dir__(self) -> list[str]:
        return list(FIGURES)


class Accessor:
    """What probekit does with a tree, a site of it, or an array of a site, as methods.

    Each method is the function of that name, whose first argument is what stands before ``.probekit``. `measure`,
    `export` and `as_dataset` are for stores; `summary`, `top`, `to_dataframe` and `plot` for results; `report` for
    both.

    >>> import torch, probekit as pk
    >>> m = pk.measure_live(torch.nn.Sequential(torch.nn.ReLU()), torch.eye(2), "mean", sites="0")
    >>> m.probekit.to_dataframe("mean")
      site  node  mean
    0    0     0   0.5
    1    0     1   0.5
    """

    def __init__(self, data: xr.DataTree | xr.Dataset | xr.DataArray) -> None:
        self._data = data

    @property
    def measure(self) -> Callable[..., xr.DataTree]:
        return MethodType(probekit.measure, self._data)

    @property
    def export(self) -> Callable[..., Any]:
        return MethodType(probekit.export, self._data)

    @property
    def as_dataset(self) -> Callable[..., Any]:
        return MethodType(probekit.as_dataset, self._data)

    @property
    def summary(self) -> Callable[..., Any]:
        return MethodType(probekit.summary, self._tree)

    @property
    def top(self) -> Callable[..., Any]:
        return MethodType(probekit.top, self._tree)

    @property
    def to_dataframe(self) -> Callable[..., Any]:
        return MethodType(probekit.to_dataframe, self._tree)

    @property
    def plot(self) -> Plots:
        return Plots(self._tree)

    @property
    def report(self) -> Callable[..., Any]:
        return MethodType(probekit.report.write, self._tree)

    def __dir__(self) -> list[str]:
        return [name for name in vars(type(self)) if not name.startswith("_")]

    def __repr__(self) -> str:
        return (
            f"What probekit does with this {type(self._data).__name__}: {', '.join(f'.{name}' for name in dir(self))}"
        )

    @property
    def _tree(self) -> xr.DataTree:
        """The tree of sites that the data are, or one around the single site."""
        from probekit._measure.site_source import as_tree
        from probekit._store.layout import ACTIVATION, group_names

        data = self._data
        if isinstance(data, xr.DataTree) and (data.children or data.parent is None):
            return data
        if isinstance(data, xr.DataArray):
            data = data.to_dataset(name=data.name or ACTIVATION)
        if ACTIVATION in data.data_vars:
            return as_tree(data)
        site = data.to_dataset() if isinstance(data, xr.DataTree) else data
        about = data.parent.attrs if isinstance(data, xr.DataTree) and data.parent is not None else {}
        name = str(site.attrs.get("site", (isinstance(data, xr.DataTree) and data.name) or "site"))
        key = group_names([name])[name]
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs=about), key: site.assign_attrs(site=name)})


for _register in (xr.register_datatree_accessor, xr.register_dataset_accessor, xr.register_dataarray_accessor):
    _register("probekit")(Accessor)  # type: ignore[no-untyped-call]
