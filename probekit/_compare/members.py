"""The stores that are compared: opened, named, and cut to the samples that all of them have, in one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from probekit._compare.reordering import reordered
from probekit._measure.site_source import Source, find_sources
from probekit._probe.selectors import Selector
from probekit._results.opening import is_store, open_any
from probekit._store.layout import ACTIVATION, ROW, SAMPLE
from probekit.errors import DataError, SiteError, check_kind

__all__ = ["Member", "Store", "Stores", "matched", "opened"]

Store: TypeAlias = str | Path | xr.DataTree
Stores: TypeAlias = Sequence[Store] | Mapping[str, Store]
Rows: TypeAlias = npt.NDArray[np.int64]

_ID, _POSITION = "sample_id", "position"
_EXPECTED = "two or more stores: a list of paths or of open stores, or a mapping of names to them"


@dataclass(frozen=True)
class Member:
    """One of the stores that are compared: its `name`, the open `tree`, and the names of the `chosen` sites."""

    name: str
    tree: xr.DataTree
    chosen: tuple[str, ...]

    @cached_property
    def root(self) -> xr.Dataset:
        return self.tree.to_dataset(inherit=False)

    @cached_property
    def sources(self) -> dict[str, Source]:
        """The chosen sites by name."""
        return {each.name: each for each in find_sources(self.tree, list(self.chosen), self.name)}

    @property
    def attrs(self) -> dict[str, Any]:
        return {str(key): value for key, value in self.tree.attrs.items()}

    @property
    def samples(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> npt.NDArray[Any]:
        """The id of each sample; DataError where there are none, or two samples share one."""
        if _ID not in self.root.variables:
            raise DataError(f"{self.name} has no {_ID!r} for its samples, by which those of several stores are joined.")
        ids: npt.NDArray[Any] = self.root[_ID].values
        if len(np.unique(ids)) < len(ids):
            raise DataError(f"{self.name} has samples that share a {_ID!r}, so nothing tells which is which elsewhere.")
        return ids

    @cached_property
    def labels(self) -> npt.NDArray[Any] | None:
        """The label of each sample, where there are labels."""
        return self.root["label"].values if "label" in self.root.variables else None

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        found = self.root.variables.get("class_name")
        return () if found is None else tuple(map(str, found.values))


def opened(stores: Stores, sites: Selector | None) -> list[Member]:
    """The stores with a name each.

    Raises:
        StoreError: there is no store at a path.
        DataError: fewer than two stores, or what isn't a store.
        SiteError: no store has a site that matches `sites`.
    """
    check_kind("stores", stores, (list, tuple, Mapping), _EXPECTED)
    if isinstance(stores, xr.DataTree):  # which is a mapping of its groups
        raise DataError(f"stores is one DataTree; compare takes {_EXPECTED}.", arguments=("stores",))
    given = list(stores.values()) if isinstance(stores, Mapping) else list(stores)
    if len(given) < 2:
        raise DataError(f"compare takes {_EXPECTED}; there {'is one' if given else 'is none'}.", arguments=("stores",))
    for store in given:
        check_kind("stores", store, (str, Path, xr.DataTree), _EXPECTED)
    names = list(map(str, stores)) if isinstance(stores, Mapping) else _names(given)
    return [_opened(name, store, sites) for name, store in zip(names, given, strict=True)]


def _opened(name: str, store: Store, sites: Selector | None) -> Member:
    tree = store if isinstance(store, xr.DataTree) else open_any(store)
    if not is_store(tree):
        raise DataError(
            f"{name} holds results, of which nothing can be measured again. Give the store that they are of.",
            arguments=("stores",),
        )
    try:
        return Member(name, tree, tuple(each.name for each in find_sources(tree, sites, name)))
    except SiteError as error:
        raise SiteError(f"{error} compare needs sites of every store.", arguments=("sites",)) from error


def _names(stores: Sequence[Store]) -> list[str]:
    """What tells the stores apart: the ends of their paths, as long as they must be; a number for an open one."""
    paths = [None if isinstance(each, xr.DataTree) else str(each).rstrip("/").split("/") for each in stores]
    for length in range(1, 1 + max((len(each) for each in paths if each), default=1)):
        names = [
            f"store {at}" if each is None else "/".join(each[-length:]).removesuffix(".zarr")
            for at, each in enumerate(paths, 1)
        ]
        if len({*names}) == len(names):
            return names
    return [f"{name} ({at})" for at, name in enumerate(names, 1)]  # the same store twice


def matched(members: Sequence[Member]) -> list[Member]:
    """The stores with the samples, and the rows of tokens, that all of them have, in the order of the first one.

    Nothing is read but ids and positions, and sites whose rows are in another order.

    Raises:
        DataError: there are fewer than two such samples, or nothing to join by.
    """
    common = reduce(np.intersect1d, (each.ids for each in members))
    if len(common) < 2:
        found = "no sample" if not len(common) else "one sample, too few,"
        firsts = ", ".join(f"{each.ids[:1].tolist()[0]!r} of {each.name}" for each in members)
        raise DataError(
            f"The stores have {found} in common by their {_ID!r}; the first ones are {firsts}. compare needs the same "
            "samples in each: capture the same data.",
            arguments=("stores",),
        )
    order = members[0].ids[np.isin(members[0].ids, common)]
    tokens = [_token_keys(each, source) for each in members for source in each.sources.values() if source.tokens]
    kept = _common_tokens(tokens, order)
    return [_cut(each, order, kept) for each in members]


def _token_keys(member: Member, source: Source) -> npt.NDArray[Any]:
    """The sample and the position of each row of a site of tokens, as one array of pairs."""
    columns = source.columns(member.root)
    ids, positions = (columns.find(name).values for name in (_ID, _POSITION))
    kind = [(_ID, ids.dtype), (_POSITION, positions.dtype)]
    keys: npt.NDArray[Any] = np.empty(len(ids), kind)
    keys[_ID], keys[_POSITION] = ids, positions
    if len(np.unique(keys)) < len(keys):
        raise DataError(
            f"Site {source.name!r} of {member.name} has rows that share a sample and a position, so nothing tells "
            "which is which elsewhere. Leave the site out with sites=.",
            arguments=("sites",),
        )
    return keys


def _common_tokens(keys: Sequence[npt.NDArray[Any]], order: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The tokens of the common samples that every site of tokens has, in the order of the first such site."""
    if not keys:
        return np.empty(0)
    common = reduce(np.intersect1d, keys)
    found: npt.NDArray[Any] = keys[0][np.isin(keys[0], common) & np.isin(keys[0]["sample_id"], order)]
    if not len(found):
        raise DataError(
            "The sites of tokens have no token in common by their sample and position. Choose other sites (sites=).",
            arguments=("sites",),
        )
    return found


def _cut(member: Member, order: npt.NDArray[Any], tokens: npt.NDArray[Any]) -> Member:
    places = _places(member.ids, order)
    groups = {"/": member.root.isel({SAMPLE: places})}
    for source in member.sources.values():
        if source.tokens:
            rows = _places(_token_keys(member, source), tokens)
        else:
            rows = _places(source.columns(member.root).find(_ID).values, order)
        groups[source.key] = _rows_of(source, rows)
    return Member(member.name, xr.DataTree.from_dict(groups), member.chosen)


def _places(keys: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> Rows | slice:
    """Where the wanted ones are among unique keys; a slice, which is read faster, where they are side by side."""
    by_key = np.argsort(keys, kind="stable")
    found = by_key[np.searchsorted(keys[by_key], wanted)].astype(np.int64)
    if len(found) and (np.diff(found) == 1).all():
        return slice(int(found[0]), int(found[-1]) + 1)
    return found


def _rows_of(source: Source, rows: Rows | slice) -> xr.Dataset:
    """These rows of a site, none of them read yet where they are in the order of the store."""
    dim = ROW if source.tokens else SAMPLE
    beside = source.site.drop_vars(ACTIVATION).isel({dim: rows}, missing_dims="ignore")
    if isinstance(rows, slice) or (np.diff(rows) > 0).all():
        return beside.assign({ACTIVATION: source.variable.isel({dim: rows})})
    return beside.assign({ACTIVATION: reordered(source, rows)})
