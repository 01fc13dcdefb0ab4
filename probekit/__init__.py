"""What the units of a neural network do, for each class of input.

The public names load on first use, so that ``import probekit`` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probekit import callbacks, errors, metrics, plot, testing
    from probekit.capture import capture, plan
    from probekit.chunks import ChunkSampler
    from probekit.fingerprint import weights_digest
    from probekit.live import measure_live
    from probekit.measure import measure
    from probekit.metrics import metric
    from probekit.probe import Probe
    from probekit.reduce import Projection
    from probekit.rows import as_dataset
    from probekit.sites import sites
    from probekit.store import info
    from probekit.store import open_store as open
    from probekit.tables import summary, to_dataframe
    from probekit.verify import verify
    from probekit.watch import Watch

__version__ = "0.1.0"

# public name -> (module, attribute); None: the module itself
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "ChunkSampler": ("probekit.chunks", "ChunkSampler"),
    "Probe": ("probekit.probe", "Probe"),
    "Projection": ("probekit.reduce", "Projection"),
    "Watch": ("probekit.watch", "Watch"),
    "as_dataset": ("probekit.rows", "as_dataset"),
    "callbacks": ("probekit.callbacks", None),
    "capture": ("probekit.capture", "capture"),
    "errors": ("probekit.errors", None),
    "info": ("probekit.store", "info"),
    "measure": ("probekit.measure", "measure"),
    "measure_live": ("probekit.live", "measure_live"),
    "metric": ("probekit.metrics", "metric"),
    "metrics": ("probekit.metrics", None),
    "open": ("probekit.store", "open_store"),
    "plan": ("probekit.capture", "plan"),
    "plot": ("probekit.plot", None),
    "sites": ("probekit.sites", "sites"),
    "summary": ("probekit.tables", "summary"),
    "testing": ("probekit.testing", None),
    "to_dataframe": ("probekit.tables", "to_dataframe"),
    "verify": ("probekit.verify", "verify"),
    "weights_digest": ("probekit.fingerprint", "weights_digest"),
}

__all__ = [
    "ChunkSampler",
    "Probe",
    "Projection",
    "Watch",
    "as_dataset",
    "callbacks",
    "capture",
    "errors",
    "info",
    "measure",
    "measure_live",
    "metric",
    "metrics",
    "open",
    "plan",
    "plot",
    "sites",
    "summary",
    "testing",
    "to_dataframe",
    "verify",
    "weights_digest",
]


class _Package(ModuleType):
    """The package, whose public functions win over the modules of the same name.

    Importing ``probekit.capture`` makes Python set the attribute ``capture`` of the package to that module, and
    ``pk.capture(...)`` would then call a module.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _PUBLIC.get(name, ("", None))[1] is not None:
            return
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'probekit' has no attribute {name!r}")
        module, attribute = _PUBLIC[name]
        value = import_module(module) if attribute is None else getattr(import_module(module), attribute)
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_PUBLIC})


sys.modules[__name__].__class__ = _Package
