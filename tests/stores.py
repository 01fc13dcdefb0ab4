"""Captures with parts of a test's own: a backend that fails, a transfer that is late."""

from __future__ import annotations

from typing import Any

from torch import nn

from probekit._capture.plan import CaptureOptions, StorageOptions
from probekit._capture.session import CaptureJob, IfExists
from probekit._data.batches import Batches
from probekit._forward.options import RunOptions, SiteOptions
from probekit._store.backend import Backend
from probekit._write.transfer import Transfer
from probekit.progress import silent

__all__ = ["capture_into"]


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
        SiteOptions(sites, None, reduce, 0, dtype), RunOptions("eval"), StorageOptions.of(None, memory)
    )
    if_exists = IfExists(resume=False, append=None, overwrite=False)
    batches = Batches(data, batch_size=batch_size)
    CaptureJob(model, options, batches, backend, if_exists, transfer or Transfer(), silent).run()
