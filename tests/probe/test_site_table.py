import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import SiteError


def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(16, 2))


def test_the_table_has_every_site():
    table = pk.sites(make(), torch.randn(2, 3, 4, 4))
    assert table.names == ["0", "1", "2", "3", "4", "(root)"]
    conv = table[0]
    assert (conv.type, conv.calls, conv.shape, conv.dtype) == ("Conv2d", 1, (2, 4, 2, 2), torch.float32)
    assert conv.parameters == 4 * 3 * 9 + 4
    assert conv.bytes_per_sample == 4 * 2 * 2 * 4
    assert table[-1].parameters == sum(p.numel() for p in make().parameters())


def test_the_table_prints_and_becomes_a_frame():
    table = pk.sites(make(), torch.randn(2, 3, 4, 4), select=nn.Conv2d)
    title, head, row = repr(table).splitlines()
    assert title == "Sequential: 1 sites"
    assert head.split() == ["site", "kind", "type", "calls", "shape", "nodes", "dtype", "parameters", "bytes/sample"]
    assert row.split() == ["0", "output", "Conv2d", "1", "2×4×2×2", "axis", "1", "float32", "112", "64", "bytes"]
    assert "<td>Conv2d</td>" in table._repr_html_()
    assert table.to_dataframe()["shape"].tolist() == ["2×4×2×2"]


def test_an_unknown_site_is_an_error():
    with pytest.raises(SiteError, match="List them with"):
        pk.sites(make(), torch.zeros(2, 3, 4, 4), select="layers.*")
