"""A reader by docs/store.md alone, with nothing of zarr, xarray or probekit: the format is what is written there."""

import json
from itertools import product
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk


def read(store: Path, path: str) -> np.ndarray:
    """An array of a store whose chunks aren't compressed."""
    node = json.loads((store / "zarr.json").read_text())["consolidated_metadata"]["metadata"][path]
    shape, chunk = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    assert node["codecs"][-1] == {"name": "crc32c"}
    found = np.empty(shape, node["data_type"])
    for index in product(*(range(-(-length // part)) for length, part in zip(shape, chunk, strict=True))):
        data = store.joinpath(path, "c", *map(str, index)).read_bytes()
        assert google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:], "little")
        start = [number * part for number, part in zip(index, chunk, strict=True)]
        stop = [min(s + part, length) for s, part, length in zip(start, chunk, shape, strict=True)]
        inside = tuple(slice(0, b - a) for a, b in zip(start, stop, strict=True))
        values = np.frombuffer(data[:-4], node["data_type"]).reshape(chunk)
        found[tuple(map(slice, start, stop))] = values[inside]
    return found


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maps, self.wide = nn.Conv2d(1, 40, 3), nn.Linear(36, 6000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.maps(x)
        return self.wide(x.flatten(1))


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_the_specification_is_enough_to_read_a_store(tmp_path: Path, dtype: str | None) -> None:
    torch.manual_seed(0)
    x, net = torch.randn(700, 1, 6, 6), Net()
    reduce = {"maps": [lambda maps: maps.flatten(2).transpose(1, 2), "tokens"]}
    tree = pk.capture(
        net,
        (x, torch.arange(700) % 4),
        tmp_path / "a.zarr",
        sites=["maps", "wide"],
        reduce=reduce,
        dtype=dtype,
        batch_size=50,
    )
    with torch.no_grad():
        maps, wide = net.maps(x).flatten(2).transpose(1, 2).reshape(-1, 40), net.wide(x.flatten(1))
    record = json.loads((tmp_path / "a.zarr/zarr.json").read_text())
    assert record["attributes"]["probekit_format"] == 2
    assert len(list((tmp_path / "a.zarr/wide/activation/c/0").iterdir())) > 1  # several chunks of nodes
    for path, expected in {"maps/activation": maps, "wide/activation": wide}.items():
        found = read(tmp_path / "a.zarr", path)
        np.testing.assert_array_equal(found, tree[path].values)
        tolerance = 1e-5 if dtype is None else 1e-2
        np.testing.assert_allclose(found.astype("f4"), expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr", "label"), np.arange(700) % 4)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr", "maps/sample_id"), np.arange(700).repeat(16))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr", "maps/position"), np.tile(np.arange(16), 700))
