from __future__ import annotations

import copy
import pickle

import pytest

from probekit import errors
from probekit.errors import ModelError, ProbekitError, arguments_of, check_choice

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProbekitError)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("send", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_keeps_its_message_and_arguments_on_its_way_to_another_process(kind, send):
    sent = send(kind("It exists already. Pass resume=True.", arguments=("resume", "overwrite", "resume")))
    assert type(sent) is kind
    assert str(sent) == "It exists already. Pass resume=True."
    assert sent.arguments == ("resume", "overwrite")
    assert send(kind("There is none.")).arguments == ()


def test_only_errors_of_probekit_have_arguments():
    assert arguments_of(ModelError("No.", arguments=["mode"])) == ("mode",)
    assert arguments_of(OSError("No.")) == ()


def test_a_choice_that_there_is_not_is_an_error_about_its_argument():
    check_choice("mode", "eval", ("eval", "train"))
    with pytest.raises(ModelError, match=r"mode is 'evil'; it is 'eval' or 'train'\.") as raised:
        check_choice("mode", "evil", ("eval", "train"), ModelError)
    assert raised.value.arguments == ("mode",)
