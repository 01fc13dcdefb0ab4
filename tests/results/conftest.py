"""What is measured in these tests."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr


@pytest.fixture
def tree() -> xr.DataTree:
    """Two sites: one without ties, and a ReLU whose node 5 has two more atoms."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    x = rng.normal(size=(200, 40)).astype(np.float32)
    relu = np.maximum(x, 0)
    relu[:60, 5], relu[60:110, 5] = 1, 2
    root = xr.Dataset(
        {"class_name": ("label", ["ant", "bee", "cat"])},
        {"label": ("sample", labels)},
        {"model": "tests.Net", "created": "2026-01-01", "probekit_format": 1},
    )
    sites = {"layers.0": x, "relu": relu}
    children = {
        key: xr.Dataset({"activation": (("sample", "node"), v)}, attrs={"type": "T"}) for key, v in sites.items()
    }
    return xr.DataTree.from_dict({"/": root, **children})
