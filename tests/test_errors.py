from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import probekit as pk
from probekit import errors
from probekit._capture.plan import BatchTooLarge
from probekit._measure.site_rows import HoldsNaN
from probekit._results.assemble import NotGrouped
from probekit.errors import DataError, ModelError, PluginError, ProbekitError, SiteError, arguments_of, check_choice

NAMED = [getattr(errors, name) for name in errors.__all__]
KINDS = [kind for kind in NAMED if isinstance(kind, type) and issubclass(kind, ProbekitError)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("send", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_keeps_its_message_and_arguments_on_its_way_to_another_process(kind, send):
    sent = send(kind("It exists already. Pass resume=True.", arguments=("resume", "overwrite", "resume")))
    assert type(sent) is kind
    assert str(sent) == "It exists already. Pass resume=True."
    assert sent.arguments == ("resume", "overwrite")
    assert send(kind("There is none.")).arguments == ()


def test_the_error_of_a_batch_that_is_too_large_reaches_another_process():
    sent = pickle.loads(pickle.dumps(BatchTooLarge("It doesn't fit.", 100)))
    assert (type(sent), str(sent), sent.size) == (BatchTooLarge, "It doesn't fit.", 64)
    assert sent.arguments == BatchTooLarge("", 1).arguments


@pytest.mark.parametrize(("kind", "arguments"), [(HoldsNaN, ("sites", "nan")), (NotGrouped, ("by",))])
def test_an_error_keeps_its_fact_and_its_advice_on_its_way_to_another_process(kind, arguments):
    sent, here = pickle.loads(pickle.dumps(kind("Site 'a' can't be"))), kind("Site 'a' can't be")
    assert (type(sent), sent.fact, str(sent), sent.arguments) == (kind, "Site 'a' can't be", str(here), arguments)
    assert str(sent).startswith("Site 'a' can't be")
    assert str(sent).count("Site 'a'") == 1


def test_only_errors_of_probekit_have_arguments():
    assert arguments_of(ModelError("No.", arguments=["mode"])) == ("mode",)
    assert arguments_of(OSError("No.")) == ()


def test_a_choice_that_there_is_not_is_an_error_about_its_argument():
    check_choice("mode", "eval", ("eval", "train"))
    with pytest.raises(ModelError, match=r"mode is 'evil'; it is 'eval' or 'train'\.") as raised:
        check_choice("mode", "evil", ("eval", "train"), ModelError)
    assert raised.value.arguments == ("mode",)


@pk.metric
def without_bins(x):
    raise DataError("There are no bins.", arguments=("where",))


def test_an_error_that_tells_another_keeps_its_arguments(tmp_path):
    tree = pk.capture(nn.ReLU(), torch.ones(3, 2), tmp_path / "a.zarr")
    with pytest.raises(PluginError, match=r"'without_bins' can't be measured .*There are no bins\.") as raised:
        pk.measure(tree, without_bins)
    assert raised.value.arguments == ("where",)
    with pytest.raises(SiteError, match=r"reduce='last' on .*it has no tokens") as raised:
        pk.plan(nn.ReLU(), torch.ones(3, 2), reduce="last")
    assert raised.value.arguments == ("reduce", "sites", "exclude")
