import re

import pytest
from torch import nn

from probekit._probe.selectors import match_names, selected_modules
from probekit.errors import SiteError

NAMES = ["layer1.0.relu@0", "layer1.0.relu@1", "layer1.0.conv", "layer2.0.conv", "lstm[0]", "lstm[1][hidden]", "(root)"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("layer1.0.conv", ["layer1.0.conv"]),
        ("*", ["lstm[0]", "lstm[1][hidden]", "(root)"]),  # one star stops at a dot
        ("**", NAMES),
        ("**.conv", ["layer1.0.conv", "layer2.0.conv"]),
        ("layer*.0.conv", ["layer1.0.conv", "layer2.0.conv"]),
        ("layer1.0.relu", ["layer1.0.relu@0", "layer1.0.relu@1"]),  # without @ all calls
        ("layer1.0.relu@1", ["layer1.0.relu@1"]),
        ("lstm", ["lstm[0]", "lstm[1][hidden]"]),  # without [ all leaves
        ("lstm[1][hidden]", ["lstm[1][hidden]"]),
        ("lstm[1]*", ["lstm[1][hidden]"]),
        ("(root)", ["(root)"]),
        (re.compile(r"layer\d\.0\..*"), NAMES[:4]),
        (["layer2**", "lstm[0]"], ["layer2.0.conv", "lstm[0]"]),
    ],
)
def test_a_selector_picks_names(selector, expected):
    assert match_names(NAMES, selector, where="a.zarr") == expected


def test_no_match_names_the_owner_the_count_and_what_is_near():
    with pytest.raises(
        SiteError, match=r"No site matches 'layer1.0.convs' in a.zarr \(7 sites\). Near: 'layer1.0.conv'"
    ):
        match_names(NAMES, "layer1.0.convs", where="a.zarr")


def test_modules_are_selected_by_type_and_by_rule():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    assert list(selected_modules(model, nn.ReLU)) == ["1"]
    assert list(selected_modules(model, lambda name, module: isinstance(module, nn.Linear) and name != "0")) == ["2"]
    assert list(selected_modules(model, [nn.ReLU, "2"])) == ["1", "2"]


@pytest.mark.parametrize("selector", [3, [], [None]])
def test_what_is_no_selector_is_refused(selector):
    with pytest.raises(SiteError):
        selected_modules(nn.ReLU(), selector)
