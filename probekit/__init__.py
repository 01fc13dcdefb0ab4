"""What the units of a neural network do, for each class of input.

The public names load on first use, so that ``import probekit`` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from probekit._version import __version__ as __version__

if TYPE_CHECKING:
    from probekit import callbacks, cluster, errors, load, metrics, plot, progress, report, testing
    from probekit._bars import options
    from probekit._capture.capture import capture, plan
    from probekit._capture.fingerprint import weights_digest
    from probekit._capture.generation import generate
    from probekit._compare.compare import compare
    from probekit._data.sampler import ChunkSampler
    from probekit._export.export import export
    from probekit._measure.live import measure_live
    from probekit._measure.measure import measure
    from probekit._measure.top import top
    from probekit._measure.watch import Watch
    from probekit._probe.hooks import Probe
    from probekit._probe.reductions import Projection
    from probekit._probe.site_table import sites
    from probekit._results.summary import summary
    from probekit._results.tables import to_dataframe
    from probekit._store.selection import sel
    from probekit._store.store import info
    from probekit._store.store import open_store as open
    from probekit._store.torch_dataset import as_dataset
    from probekit._store.verify import verify
    from probekit.metrics import metric

__all__ = [
    "ChunkSampler",
    "Probe",
    "Projection",
    "Watch",
    "as_dataset",
    "callbacks",
    "capture",
    "cluster",
    "compare",
    "errors",
    "export",
    "generate",
    "info",
    "load",
    "measure",
    "measure_live",
    "metric",
    "metrics",
    "open",
    "options",
    "plan",
    "plot",
    "progress",
    "report",
    "sel",
    "sites",
    "summary",
    "testing",
    "to_dataframe",
    "top",
    "verify",
    "weights_digest",
]

# Public names that aren't modules of the package, and where they are.
_WHERE = {
    "ChunkSampler": "probekit._data.sampler:ChunkSampler",
    "Probe": "probekit._probe.hooks:Probe",
    "Projection": "probekit._probe.reductions:Projection",
    "Watch": "probekit._measure.watch:Watch",
    "as_dataset": "probekit._store.torch_dataset:as_dataset",
    "capture": "probekit._capture.capture:capture",
    "compare": "probekit._compare.compare:compare",
    "export": "probekit._export.export:export",
    "generate": "probekit._capture.generation:generate",
    "info": "probekit._store.store:info",
    "measure": "probekit._measure.measure:measure",
    "measure_live": "probekit._measure.live:measure_live",
    "metric": "probekit.metrics:metric",
    "open": "probekit._store.store:open_store",
    "options": "probekit._bars:options",
    "plan": "probekit._capture.capture:plan",
    "sel": "probekit._store.selection:sel",
    "sites": "probekit._probe.site_table:sites",
    "summary": "probekit._results.summary:summary",
    "to_dataframe": "probekit._results.tables:to_dataframe",
    "top": "probekit._measure.top:top",
    "verify": "probekit._store.verify:verify",
    "weights_digest": "probekit._capture.fingerprint:weights_digest",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'probekit' has no attribute {name!r}")
    from probekit.plugins import warn_of_namesake

    warn_of_namesake()
    module, _, attribute = _WHERE.get(name, f"probekit.{name}").partition(":")
    found = import_module(module)
    value = globals()[name] = getattr(found, attribute) if attribute else found
    _register_accessor()
    return value


def _register_accessor() -> None:
    """Give what xarray makes its ``.probekit``, where xarray is loaded."""
    if "xarray" in sys.modules:
        import_module("probekit._accessor")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register_accessor()
