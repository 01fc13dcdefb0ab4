"""What the metrics' tests share: running a streaming metric over batches."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import settings

from probekit.metrics import Spec, State, StreamingMetric

Array = npt.NDArray[np.generic]

settings.register_profile("any speed", deadline=None)  # a busy machine is no failure
settings.load_profile("any speed")


@pytest.fixture(scope="session")
def stream() -> Callable[..., State]:
    """The state of a streaming metric after the samples (x, y), cut into batches at `cuts`."""

    def run(metric: StreamingMetric, x: Array, y: Array, classes: int, cuts: tuple[int, ...] = ()) -> State:
        samples, codes = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y, dtype=np.int64))
        state = metric.init(Spec(x.shape[1], classes, samples.dtype, samples.device))
        bounds = [0, *sorted(cuts), len(x)]
        for start, stop in pairwise(bounds):
            state = metric.update(state, samples[start:stop], codes[start:stop])
        return state

    return run
