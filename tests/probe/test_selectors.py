import re

import numpy as np
import pytest
import torch
from torch import nn

import probekit as pk
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


class Shares(nn.Module):
    """One block and one layer under two names each."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"embed": nn.Embedding(5, 3), "block": nn.Sequential(nn.Linear(3, 3), nn.ReLU())})
        self.decoder = nn.ModuleDict({"embed": self.encoder["embed"], "head": nn.Linear(3, 2)})
        self.again = self.encoder["block"]

    def forward(self, x):
        return self.decoder["head"](self.again(self.decoder["embed"](x)))


IDS = torch.arange(4)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("encoder.embed", ["encoder.embed"]),
        ("decoder.embed", ["encoder.embed"]),
        ("decoder.*", ["encoder.embed", "decoder.head"]),
        ("again.0", ["encoder.block.0"]),
        ("again**", ["encoder.block.0", "encoder.block.1", "encoder.block"]),
        ("again.1:input", ["encoder.block.1:input"]),
        ("again~*", None),
        (re.compile(r"decoder\.embed"), ["encoder.embed"]),
        (lambda name, module: name == "again.1", ["encoder.block.1"]),
        (nn.Embedding, ["encoder.embed"]),
    ],
)
def test_a_module_under_two_names_is_selected_by_both_and_has_the_first(selector, expected, tmp_path):
    model = Shares()
    if expected is None:
        with pytest.raises(SiteError, match="No site matches"):
            pk.sites(model, IDS, select=selector)
        return
    assert sorted(pk.sites(model, IDS, select=selector).names) == sorted(expected)
    with pk.Probe(model, selector) as probe:
        model(IDS)
        found = probe.take()
    assert sorted(found) == sorted(expected)
    tree = pk.capture(model, IDS, tmp_path / "a", sites=selector, labels=False)
    for name in expected:
        assert np.array_equal(tree[name]["activation"], found[name].detach())


def test_an_excluded_or_reduced_part_leaves_what_it_shares_with_others():
    model = Shares()
    everything = ["encoder.embed", "encoder.block.0", "encoder.block.1", "encoder.block", "decoder.head", "(root)"]
    assert pk.sites(model, IDS).names == everything
    assert pk.sites(model, IDS, exclude="decoder.*").names == [name for name in everything if name != "decoder.head"]
    assert pk.sites(model, IDS, exclude="decoder.embed").names == everything[1:]
    reduce = {"decoder.*": [0], "again": [1], "encoder.*": [0, 2], "**": slice(0, 1)}
    plan = pk.plan(model, IDS, sites=["encoder.embed", "encoder.block", "decoder.head"], reduce=reduce, labels=False)
    assert {site.name: site.spec.attrs["reduce"] for site in plan.sites} == {
        "encoder.embed": '[{"nodes": [0, 2]}]',
        "encoder.block": '[{"nodes": [1]}]',
        "decoder.head": '[{"nodes": [0]}]',
    }


def test_a_module_that_holds_its_own_parent_has_sites():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    model[1].parent = model
    with pk.Probe(model, "*") as probe:
        nn.Sequential.forward(model, torch.ones(1, 3))
        assert list(probe.take()) == ["0", "1"]


def test_keys_that_look_alike_are_told_apart(tmp_path):
    class Gives(nn.Module):
        def forward(self, x):
            return {0: x, "0": x + 1, "a": {1: x + 2, "b": x + 3}, None: x + 4, "None": x + 5}

    model, x = nn.Sequential(Gives(), nn.Module()), torch.zeros(4, 1)
    expected = {"0[0]": 0, "0['0']": 1, "0[a][1]": 2, "0[a][b]": 3, "0[None]": 4, "0['None']": 5}
    model[1].forward = lambda given: given[0] * given["0"]
    with pk.Probe(model, "0") as probe:
        model(x)
        assert {name: tensor[0].item() for name, tensor in probe.take().items()} == expected
    tree = pk.capture(model, x, tmp_path / "a", sites="0", labels=False)
    assert {name: tree[name]["activation"].values[0].item() for name in expected} == expected
    again = pk.open(tmp_path / "a")
    assert again["0['0']"]["activation"].values[0].item() == 1


def test_two_tensors_of_one_name_are_refused():
    class Gives(nn.Module):
        def forward(self, x):
            return {"a][b": x, "a": {"b": x + 1}}

    with (
        pk.Probe(model := Gives(), "**"),
        pytest.raises(SiteError, match=r"\(root\)\[a\]\[b\] of Gives is the name of two tensors"),
    ):
        model(torch.zeros(1))
