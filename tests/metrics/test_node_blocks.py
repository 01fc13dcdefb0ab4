"""Results of blocks of nodes, joined to those of all nodes."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.metrics import Variables
from probekit.metrics._kernels.node_blocks import join_nodes, placed


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("lengths", [(3,), (2, 5), (1, 4, 2, 1)])
def test_arrays_are_placed_as_numpy_concatenates_them(axis: int, lengths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = [np.moveaxis(rng.normal(size=(length, 4, 3)), 0, axis) for length in lengths]
    expected = np.concatenate(arrays, axis)
    found = placed(arrays, axis)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert arrays == []


def test_blocks_are_joined_by_their_last_dim() -> None:
    def block(nodes: int) -> Variables:
        return {"a": (("label", "node"), np.full((2, nodes), nodes)), "b": (("node",), np.arange(nodes))}

    joined = join_nodes(block(nodes) for nodes in (2, 1))
    assert joined["a"][0] == ("label", "node")
    np.testing.assert_array_equal(joined["a"][1], [[2, 2, 1], [2, 2, 1]])
    np.testing.assert_array_equal(joined["b"][1], [0, 1, 0])
