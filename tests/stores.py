"""Stores as tests make and compare them, also through a backend that fails or a transfer that is late."""

from __future__ import annotations

import copy
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from zarr.storage import LocalStore, WrapperStore

import probekit as pk
from probekit._capture.job import CaptureJob, IfExists
from probekit._capture.plan import CaptureOptions, StorageOptions
from probekit._data.batches import Batches
from probekit._forward.options import RunOptions, SiteOptions
from probekit._store.backend import Backend
from probekit._store.record import SEAL, sealed
from probekit._write.transfer import Transfer
from probekit.progress import silent

__all__ = [
    "LABELS",
    "X",
    "capture_into",
    "chunks",
    "contents",
    "files",
    "one_site",
    "opened",
    "opened_counting",
    "stopped",
    "stopping",
    "three_sites",
    "timeless",
    "write_record",
]


def capture_into(
    backend: Backend,
    model: nn.Module,
    data: Any,
    *,
    sites: Any = "**",
    reduce: Any = None,
    dtype: str | None = None,
    batch_size: int = 256,
    memory: str | int = "256MiB",
    transfer: Transfer | None = None,
) -> None:
    """`probekit.capture` into a backend, with a transfer."""
    options = CaptureOptions(
        SiteOptions(sites, None, reduce, None, dtype=dtype), RunOptions("eval"), StorageOptions.of(None, memory)
    )
    if_exists = IfExists(resume=False, append=None, overwrite=False)
    batches = Batches(data, batch_size=batch_size)
    CaptureJob(model, options, batches, backend, if_exists, transfer or Transfer(), silent).run()


def files(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store; of its record, all but the time when it was made."""
    found = files(store)
    return found | {"zarr.json": timeless(found["zarr.json"])}


def timeless(record: bytes) -> bytes:
    """A commit record without what tells two captures of the same apart."""
    found = json.loads(record)
    for name in ("created", "capture", "command"):
        found["attributes"].pop(name, None)
    found["consolidated_metadata"].pop(SEAL, None)
    return json.dumps(found).encode()


def write_record(store: Path, record: Any) -> None:
    """Put another commit record into a store, with the checksum that it needs."""
    found = copy.deepcopy(record)
    if isinstance(found, dict) and isinstance(found.get("consolidated_metadata"), dict):
        found["consolidated_metadata"].pop(SEAL, None)
        content = sealed(json.dumps(found).encode(), 2)
    else:
        content = json.dumps(found).encode()
    (store / "zarr.json").write_bytes(content)


def chunks(store: Path) -> dict[str, bytes]:
    """Every chunk of a store."""
    return {name: content for name, content in files(store).items() if not name.endswith("zarr.json")}


def opened(store: str | Path) -> xr.DataTree:
    """A store whose capture may have been stopped, opened without a warning of it."""
    with warnings.catch_warnings(action="ignore"):
        return pk.open(store)


def opened_counting(store: Path) -> tuple[xr.DataTree, Counter[str]]:
    """A store as plain xarray opens it, and how often each chunk of an activation is read from then on."""
    reads: Counter[str] = Counter()

    class Counting(WrapperStore[LocalStore]):
        async def get(self, key: str, *args: Any, **options: Any) -> Any:
            if "/activation/c/" in key:
                reads[key] += 1
            return await super().get(key, *args, **options)

    tree = xr.open_datatree(Counting(LocalStore(store)), engine="zarr", chunks=None, consolidated=False)
    return tree, reads


LABELS = np.array([0, 2, 0, 2, 0, 0])
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def one_site(x: np.ndarray = X, *dims: str, **columns: object) -> xr.DataTree:
    """A tree in memory, of the site 'site' of a few samples in three classes, one of which is empty."""
    root = xr.Dataset(
        {"class_name": ("label", np.array(["ant", "bee", "cat"], dtype=object))} if "label" in columns else {},
        {name: ("sample", values) for name, values in columns.items()} | {"sample_id": ("sample", np.arange(len(x)))},
    )
    activation = xr.Dataset({"activation": (("sample", *(dims or ("node",)[: x.ndim - 1])), x)})
    return xr.DataTree.from_dict({"/": root, "site": activation})


def three_sites(path: Path, **options: Any) -> Path:
    """A store of the sites 0, 1 and 2, of eight nodes each, in two classes."""
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    pk.capture(model, (torch.randn(50, 8), torch.arange(50) % 2), path, sites=["0", "1", "2"], **options)
    return path


def stopping(error: type[BaseException]) -> Any:
    """A progress that raises `error` after one step, of which a task of a measurement has 100."""

    def stop(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        yield from islice(items, 1)
        raise error

    return stop


def stopped(store: Any, metrics: Any, out: Path) -> list[Path]:
    """Measure `store` until a task is kept beside `out`, and stop as by Ctrl-C: the parts that are kept.

    Tasks run side by side, so no number of steps tells that one of them has ended.
    """

    def parts() -> list[Path]:
        return sorted(out.with_name(f".{out.name}.parts").glob("*.piece"))

    def stop(items: Any, /, description: str, total: int | None = None) -> Iterator[Any]:
        for item in items:
            yield item
            if parts():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pk.measure(store, metrics, out=out, progress=stop)
    assert not out.exists()
    return parts()
