"""A store in the files of other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import xarray as xr

from probekit._bars import default
from probekit._export.arrays import write_npy, write_safetensors
from probekit._export.arrow import finish_datasets, write_datasets, write_parquet
from probekit._export.site_rows import SiteRows, rows_of_samples, rows_of_site
from probekit._files import local_path, whole_folder
from probekit._measure.grouping import Where
from probekit._measure.site_source import as_tree, find_sources
from probekit._probe.selectors import Selector
from probekit._sizes import parse_size
from probekit._store.store import open_store
from probekit.errors import StoreError, check_choice, check_kind
from probekit.progress import Progress

__all__ = ["FORMATS", "Format", "export"]

Format: TypeAlias = Literal["npy", "safetensors", "parquet", "datasets"]


@dataclass(frozen=True)
class _Writer:
    """How a format writes the rows of a site into a folder, and what is left to do when it has written all sites."""

    write: Callable[[SiteRows, Path], Iterator[None]]
    finish: Callable[[Sequence[SiteRows], Path], None] = lambda tables, folder: None


FORMATS = {
    "npy": _Writer(write_npy),
    "safetensors": _Writer(write_safetensors),
    "parquet": _Writer(write_parquet),
    "datasets": _Writer(write_datasets, finish_datasets),
}


def export(
    store: str | Path | xr.DataTree | xr.Dataset | xr.DataArray,
    path: str | Path,
    format: Format,
    *,
    sites: Selector | None = None,
    where: Where | None = None,
    memory: str | int = "256MiB",
    progress: Progress | None = None,
) -> Path:
    """Write the activations of a store, and what is known of their rows, in the files of other tools; the new folder.

    It appears whole or not at all. Rows keep the store's order, and values their dtype. With each row go its label,
    its id and the other columns, of a token also position and text; the text of a whole sample is not repeated for its
    tokens, but stands among the ``(samples)``, to which they belong by ``sample_id``. The files of a site are called
    like its group in the store, such as ``layers.0``.

    - ``"npy"``: ``SITE/activation.npy``, and a file for each other column of numbers. Texts are lists in JSON, such as
      ``SITE/token.json``; ``SITE/class_name.json`` has the classes, ``SITE/about.json`` the site's attributes.
    - ``"safetensors"``: the same, with all numbers in ``SITE/rows.safetensors``.
    - ``"parquet"``: ``SITE.parquet``, with a column ``class_name`` too. An array in a row is a list of fixed length.
      Needs the extra ``parquet``.
    - ``"datasets"``: what ``datasets.load_from_disk(path)["SITE"]`` gives. Labels are of its type `ClassLabel` if no
      two classes share a name. Needs the extra ``hfdata``.

    Args:
        store: as `probekit.measure` takes it.
        path: the folder that is made.
        format: see above.
        sites: a glob, a regex or a list of them; by default all sites.
        where: which samples, as in `probekit.measure`.
        memory: how much of the store is held at a time.
        progress: wraps the iterable of chunks of rows; by default bars, see `probekit.options`.

    Raises:
        StoreError: no store at `store`, or `path` exists.
        SiteError: no site matches `sites`.
        DataError: no such format, or `where` selects nothing.
        ModelError: the library that the format needs can't be imported.

    Example:
        >>> import numpy as np, xarray as xr, probekit as pk, tempfile, pathlib
        >>> relu = xr.Dataset({"activation": (("sample", "node"), np.eye(2))}, {"label": ("sample", [0, 1])})
        >>> tree = xr.DataTree.from_dict({"relu": relu})
        >>> made = pk.export(tree, pathlib.Path(tempfile.mkdtemp()) / "acts", "npy")
        >>> np.load(made / "relu" / "activation.npy")
        array([[1., 0.],
               [0., 1.]])
    """
    expected = "the path of a store, an open one (a DataTree), or one site of it (a DataTree, Dataset or DataArray)"
    check_kind("store", store, (str, Path, xr.DataTree, xr.Dataset, xr.DataArray), expected)
    check_choice("format", format, FORMATS)
    shown = default(progress)
    target, limit = local_path(path, "path", StoreError), parse_size(memory)
    tree = open_store(store) if isinstance(store, str | Path) else as_tree(store)
    tables = _tables(tree, str(store) if isinstance(store, str | Path) else "the tree", sites, where, limit)
    _check_absent(target)
    writer = FORMATS[format]
    with whole_folder(target) as folder:
        steps = (step for rows in tables for step in writer.write(rows, folder))
        for _ in shown(steps, f"export to {format}", sum(rows.batches for rows in tables)):
            pass
        writer.finish(tables, folder)
    return target


def _tables(tree: xr.DataTree, named: str, sites: Selector | None, where: Where | None, memory: int) -> list[SiteRows]:
    root, sources = tree.to_dataset(inherit=False), find_sources(tree, sites, named)
    tables = [rows_of_site(source, root, where, memory) for source in sources]
    if any(source.tokens for source in sources):
        tables.append(rows_of_samples(root, where, memory))
    return tables


def _check_absent(path: Path) -> None:
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir():
        raise StoreError(f"{path} can't be made: {above} is a file. Give another path.", arguments=("path",))
    if path.exists() or path.is_symlink():
        raise StoreError(
            f"{path} exists already, and export never replaces anything. Remove it, or give another path.",
            arguments=("path",),
        )
