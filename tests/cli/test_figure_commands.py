from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from probekit._results.files import write
from probekit.cli.figure_commands import _names
from probekit.plot.kinds import KINDS


def test_plot_draws_a_store_and_says_what_it_wrote(call, model):
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 200)
    code, out, err = call("plot", "acts.zarr", "medians", "heatmap", "-o", "new/figs", "--format", "svg", "--json")
    written = [
        {"figure": name, "file": f"new/figs/{name}.svg"} for name in ("medians", "heatmap-mean", "heatmap-auroc_rest")
    ]
    assert (code, json.loads(out)) == (0, written), err
    assert sorted(each.name for each in Path("new/figs").iterdir()) == sorted(
        f"{each['figure']}.svg" for each in written
    )


def test_plot_draws_results_as_png_into_figures(call, model):
    call("capture", model, "digits", "acts.zarr", "-s", "*", "--limit", 100)
    call("measure", "acts.zarr", "-m", "mean", "-m", "cka", "--out", "m.zarr")
    code, out, _ = call("plot", "m.zarr", "-s", "[123]")
    assert code == 1  # brackets are literal
    code, out, _ = call("plot", "m.zarr", "-s", "1", "-s", "2")
    assert code == 0
    for name in ("profile-mean", "heatmap-mean", "by-class-mean", "matrix-cka"):
        assert Path(f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"figures/{name}.png" in out


def test_what_is_wrong_is_one_paragraph(call, model):
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 100)
    for arguments, code, message in (
        (
            ("acts.zarr", "medains"),
            1,
            f"no kind of figure 'medains'. Near: 'medians', 'pairs'. The kinds: {', '.join(KINDS)}.",
        ),
        (("acts.zarr", "by-step"), 1, "acts.zarr lacks what by-step needs"),
        (("act.zarr",), 1, "There is no store at act.zarr. Near: 'acts.zarr'"),
        (("acts.zarr", "medians", "-s", "layer"), 1, "No site matches 'layer'"),
        (("acts.zarr", "medians", "--format", "gif"), 2, "gif"),
        (("acts.zarr", "medians", "-o", "nets.py/x"), 1, "can't be written to nets.py/x/medians.png"),
        (("acts.zarr", "medians", "-o", "nets.py"), 2, "'nets.py' is a file; name the folder for the figures."),
        ((), 2, "source"),
    ):
        found, _, err = call("plot", *arguments)
        assert (found, message in " ".join(err.replace("│", " ").split())) == (code, True), err


def test_help_lists_every_kind_with_what_it_shows(call):
    code, out, _ = call("plot", "--help")
    flat = " ".join(out.split())
    assert code == 0
    for kind in KINDS.values():
        assert f"- {kind.name}: {kind.shows}" in flat


def test_help_waits_for_nothing_heavy():
    ask = "import sys, probekit.cli.figure_commands; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ask], check=False).returncode == 0


def test_names_of_sites_make_names_of_files(call, tmp_path, monkeypatch):
    assert _names(["pairs-a/b", "pairs-a:b", "pairs-A_B", "x" * 300], "png") == [
        "pairs-a_b.png",
        "pairs-a_b (1).png",
        "pairs-A_B (2).png",
        "x" * 200 + ".png",
    ]
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).uniform(size=(2, 2, 3))
    site = xr.Dataset({"overlap_pairs": (("label", "label_b", "node"), values)}, {"label": [0, 1]}, {"site": "a/b*"})
    write(xr.DataTree.from_dict({"/": xr.Dataset(attrs={"by": "label"}), "a%2Fb*": site}), Path("m.zarr"))
    code, _, err = call("plot", "m.zarr", "pairs", "-s", "a/b*")
    assert code == 0, err
    assert [each.name for each in Path("figures").iterdir()] == ["pairs-overlap_pairs-a%2Fb_.png"]
