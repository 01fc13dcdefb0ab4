from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ODD = """
from torch import nn

class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 8)

    def forward(self, x):
        return self.net(x.squeeze(1).transpose(0, 1)).transpose(0, 1)

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Embedding(10, 3)

    def forward(self, input_ids):
        return self.net(input_ids)
"""


CAPTURE = ("capture", "nets.py:make_model", "digits", "b.zarr")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ["capture", "nets.py:make_model", "digits", "acts.zarr"],
            "pass resume=True to resume a capture that was stopped, or overwrite=True to replace it.",
            "On the command line: --resume, --overwrite.",
        ),
        (
            ["capture", "nets.py:make_model", "digits", "s3://b/a", "--durable"],
            "durable=True is for folders; an object store such as s3://b/a has what it has confirmed.",
            "On the command line: --durable.",
        ),
        ([*CAPTURE, "--memory", "lots"], "'lots' is not a size.", "On the command line: --memory."),
        (
            [*CAPTURE, "--memory", "1KiB", "--batch-size", 256],
            "memory is 1 KiB. Give more memory (memory=), smaller batches (batch_size=), or fewer sites (sites=), or",
            "On the command line: --memory, --batch-size, --sites, --reduce.",
        ),
        (
            ["plan", "nets.py:make_model", "digits", "--memory", "1KiB", "--batch-size", 256],
            "memory is 1 KiB.",
            "On the command line: --memory, --batch-size, --sites, --reduce.",
        ),
        (
            ["capture", "odd.py:Turned", "digits", "b.zarr", "-s", "net"],
            "batch_dim={'net': 1}; or pass a callable that makes it axis 0 in reduce=; or select other sites (sites=).",
            "On the command line: --batch-dim, --reduce, --sites.",
        ),
        (
            [*CAPTURE, "--reduce", "tokens"],
            "reduce='tokens' on 0, of shape (3, 64): it has no tokens, which have the shape (batch, position, node).",
            "On the command line: --reduce, --sites, --exclude.",
        ),
        ([*CAPTURE, "--reduce", "maen"], "Near: 'mean', 'max', 'flatten'.", "On the command line: --reduce."),
        (
            ["capture", "odd.py:Turned", "digits", "b.zarr", "--predictions", "-s", "(root)"],
            "predictions=True needs logits (sample, class) with at least two classes.",
            "On the command line: --predictions.",
        ),
        (
            ["capture", "odd.py:Tokens", "tokens.npz", "b.zarr", "-s", "net:grad"],
            "pass loss=, a callable of the output and the labels.",
            "loss= is an argument of probekit.capture in Python.",
        ),
        (
            ["capture", "nets.py:make_model", "digits", "b.zarr", "--normalize", "imagnet"],
            "normalize is 'imagnet'.",
            "On the command line: --normalize.",
        ),
        (
            ["measure", "acts.zarr", "-m", "std", "--where", "lable=7"],
            "There is no column 'lable'",
            "On the command line: --where.",
        ),
        (
            ["measure", "acts.zarr", "-m", "auroc", "--by", "none"],
            "compares classes, and the samples are not grouped",
            "On the command line: --by.",
        ),
        (
            ["measure", "acts.zarr", "-m", "std", "--memory", "1KiB"],
            "memory is 1 KiB.",
            "On the command line: --memory.",
        ),
        (["measure", "acts.zarr", "-m", "std", "--out", "nets.py"], "exists already", "On the command line: --out."),
    ],
)
def test_an_error_names_the_options_of_its_arguments(
    call: Callable[..., Any], model: str, tmp_path: Path, arguments: list[str], message: str, hint: str
) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    np.savez("tokens.npz", input_ids=np.ones((4, 5), np.int64))
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 200)
    code, _, err = call(*arguments)
    assert code == 1
    assert message in err
    assert err.endswith(f" {hint}\n")


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        (
            [*CAPTURE, "-s", "layer*"],
            "List them with probekit.sites(model, example), or `probekit sites` on the command line.",
        ),
        (["measure", "acts.zarr", "-m", "medain"], "List them with `probekit metrics`."),
        (["measure", "acts.zarr", "-m", "std", "-s", "5"], "in acts.zarr (1 sites). There are 2."),
        (["verify", "nets.py", "--repair"], "A store is a folder that `probekit capture` wrote."),
        (["run", "relu-vs-sigmoidal"], "List them with `probekit recipes`."),
    ],
)
def test_an_error_without_arguments_names_no_options(
    call: Callable[..., Any], model: str, arguments: list[str], end: str
) -> None:
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 20)
    code, _, err = call(*arguments)
    assert code == 1
    assert err.endswith(f"{end}\n")
