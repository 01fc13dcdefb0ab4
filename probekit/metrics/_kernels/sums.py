"""The base of metrics whose states are sums over the samples."""

from __future__ import annotations

from probekit.metrics.protocol import Parameters, State

__all__ = ["Sums"]


class Sums(Parameters):
    """Base of streaming metrics all of whose state is sums over the samples, so that states are added."""

    def merge(self, a: State, b: State) -> State:
        return {key: a[key] + b[key] for key in a}
