"""The law that needs a model: measuring it while it runs gives the same as measuring its store."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from probekit._capture.capture import capture
from probekit._measure.live import measure_live
from probekit._measure.measure import measure
from probekit._measure.metric_set import needs_target
from probekit.errors import PluginError
from probekit.metrics import SampleMetric, StreamingMetric, Variables
from probekit.testing.comparison import require_same
from probekit.testing.data import mixed
from probekit.testing.law import Broken, every, law

__all__ = ["live_and_store"]

_TIMES = 10  # repetitions of the data: measure_live joins small batches, and a state must get more than one


@law(every)
def live_and_store(metric: Any) -> None:
    """Measuring a model while it runs gives the same as measuring its store; a metric that needs the samples more than
    once is refused while the model runs.

    The engine does both with the same metric. A difference comes from values that aren't in the state, or from the
    order and size of the batches. While the model runs, a column metric is computed from a sketch, which is exact for
    as few samples as in this test.
    """
    data = mixed()
    x = torch.tensor((data.x * 8).round() / 8 + 0.0).clamp(-15, 15)  # ties, and no -0
    description = f"{_TIMES} times {data.description}, rounded, through a ReLU and a ReLU6"
    model, given = nn.Sequential(nn.ReLU(), nn.ReLU6()), (x.repeat(_TIMES, 1), torch.tensor(data.y).repeat(_TIMES))
    with TemporaryDirectory() as folder:
        columns = {"target": np.tile(data.target, _TIMES)}
        capture(model, given, Path(folder) / "acts.zarr", columns=columns)
        stored = measure(Path(folder) / "acts.zarr", metric, target="target" if needs_target(metric) else None)
    try:
        live = measure_live(model, given, metric, batch_size=100)
    except PluginError as error:
        if isinstance(metric, SampleMetric):
            return
        raise Broken(f"measure_live raised {error}", description) from error
    for site in ("/", *stored.children):
        ours, theirs = _variables(live[site]), _variables(stored[site])
        if isinstance(metric, SampleMetric) and isinstance(metric, StreamingMetric):
            theirs = {name: theirs[name] for name in ours if name in theirs}  # a second pass may give it more
        where = "over the sites" if site == "/" else f"at site {site!r}"
        require_same(ours, theirs, (f"{where} while the model runs", "from its store"), description)


def _variables(group: Any) -> Variables:
    return {str(name): (tuple(map(str, found.dims)), found.values) for name, found in group.data_vars.items()}
