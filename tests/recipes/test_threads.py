"""A run computes with few threads where more would gain nothing."""

from __future__ import annotations

import pytest
import torch

from probekit.recipes.relu_vs_sigmoid.settings import resolve
from probekit.recipes.relu_vs_sigmoid.threads import few_threads


@pytest.mark.parametrize(("width", "asked", "expected"), [(200, None, 1), (800, None, 3), (200, "3", 3)])
def test_narrow_networks_take_one_thread(
    width: int, asked: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with few_threads(resolve({"widths": (width,)}), "cpu"):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
