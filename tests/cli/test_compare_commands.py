from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def test_compare_prints_differences_and_writes_a_page(call, model):
    for name in ("a.zarr", "b.zarr"):
        call("capture", model, "digits", name, "-s", "1", "-s", "2", "--limit", 120)
    code, out, err = call("compare", "a.zarr", "b.zarr", "-m", "mean", "--repeats", 2, "-o", "compare.html")
    assert code == 0, err
    for text in ("b less a, on 120 common samples", "mean", "cka", "95% interval"):
        assert text in out
    assert "Written to compare.html" in err
    page = Path("compare.html").read_text()
    assert "probekit compare a.zarr b.zarr -m mean --repeats 2 -o compare.html" in page


def test_compare_gives_all_numbers_as_json(call, model):
    call("capture", model, "digits", "a.zarr", "-s", "2", "--limit", 60)
    code, out, err = call("compare", "a.zarr", "a.zarr", "-m", "mean", "--repeats", 2, "--confidence", 0.9, "--json")
    assert code == 0, err
    found = json.loads(out)
    (row,) = found["differences"]
    assert (row["site"], row["metric"], row["difference"], row["error"]) == ("2", "mean", 0, 0)
    assert row["low"] == row["high"] == 0
    (alike,) = found["similarity"]
    np.testing.assert_allclose([alike["cka"], alike["rsa"]], 1)
    assert found["stores"] == ["a (1)", "a (2)"]
    assert found["settings"]["confidence"] == 0.9
    assert "weights" in found["origins"]["a (1)"]


def test_what_is_wrong_is_one_paragraph(call, model):
    call("capture", model, "digits", "a.zarr", "-s", "2", "--limit", 60)
    for arguments, code, message in (
        (("a.zarr",), 1, "there is one"),
        (("a.zarr", "c.zarr"), 1, "There is no store at c.zarr."),
        (("a.zarr", "a.zarr", "-m", "cka"), 1, "leave cka out."),
        (("a.zarr", "a.zarr", "--repeats", 1), 1, "On the command line: --repeats"),
        (("a.zarr", "a.zarr", "-s", "layer"), 1, "No site matches 'layer'"),
        (("a.zarr", "a.zarr", "-o", "nowhere/c.html"), 2, "There is no folder 'nowhere'"),
        ((), 2, "stores"),
    ):
        found, _, err = call("compare", *arguments)
        assert (found, message in " ".join(err.replace("│", " ").split())) == (code, True), err
