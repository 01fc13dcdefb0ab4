"""Copies of a probed model run as if it had no probe."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import probekit as pk
from probekit.errors import SiteError
from tests.models import two_blocks

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
ALL = ["**", "**:input", "**:grad", "**~*"]


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deep": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model)), "saved": saved}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("sites", [["block.first", "head"], ALL])
def test_a_copy_records_nothing_in_the_block_and_after_it(make, sites):
    model, seen = two_blocks(), []
    plain = model(X)
    with pk.Probe(model, sites, record=lambda site, tensor: seen.append(str(site))):
        model(X)
        once = list(seen)
        twin = make(model)
        assert torch.equal(twin(X), plain)
        assert seen == once
        twin(X).sum().backward()
    twin(X).sum().backward()
    model(X)
    assert [name for name in seen if ":grad" not in name] == once
    assert {name for name in seen if ":grad" in name} == set()


def test_the_rows_are_those_of_the_model_and_not_of_its_copy():
    model = two_blocks()
    with pk.Probe(model, "head") as probe:
        twin = copy.deepcopy(model)
        twin.head.weight.data.zero_()
        model(X)
        twin(X)
        part = copy.deepcopy(model.head)
        part(X)
        copy.copy(model.head)(X)
        assert torch.equal(probe.take()["head"], model(X))


def test_a_pickle_of_a_probed_model_needs_no_probekit():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pk.Probe(model, ALL):
        assert b"probekit" not in pickle.dumps(model)


def test_a_copy_keeps_nothing_of_the_probe_alive():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pk.Probe(model) as probe:
        twin = copy.deepcopy(model)
        hooks = [hook for module in twin.modules() for hook in module._forward_hooks.values()]
        assert all(type(hook.__self__).__module__ == "contextlib" for hook in hooks)
        assert len(hooks) == 5
    with pk.Probe(twin, "0") as probe:  # and takes a probe of its own
        twin(X)
        assert torch.equal(probe.take()["0"], model[0](X))


def test_an_entered_probe_cannot_be_entered_again_before_it_has_ended():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pk.Probe(model, "1") as probe:
        with pytest.raises(SiteError, match=r"This probe of Sequential is on already.*Make a second probe"), probe:
            pass
        model(X)
        assert probe.take()["1"].shape == (5, 3)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with probe:
        model(X)
        assert probe.take()["1"].shape == (5, 3)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_hook_that_a_pass_still_holds_does_nothing_once_the_block_has_ended():
    model, seen = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), []
    probe = pk.Probe(model, "0", record=lambda site, tensor: seen.append(site))
    with probe:
        hooks = list(model[0]._forward_hooks.values())
        model(X)
    for hook in hooks:
        assert hook(model[0], (X,), X) is None
    assert len(seen) == 1
