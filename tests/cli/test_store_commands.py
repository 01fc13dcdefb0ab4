from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from rich.console import Console
from torch import nn

import probekit as pk
from probekit.cli import output


def test_info_shows_sizes_shapes_classes_and_how_it_was_made(call, model):
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 100, "--compression", "small")
    code, out, _ = call("info", "acts.zarr")
    found = pk.info("acts.zarr")
    assert code == 0
    for text in ("100×8", "sample, node", "ReLU", f"{found.sites[0].bytes / 1024:.4g} KiB", found.attrs["weights"]):
        assert text in out
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    for name, count in found.classes.items():
        assert [name, str(count)] in rows


def test_info_says_what_is_kept_of_the_sites(call, tmp_path):
    tokens = {"input_ids": torch.tensor([[1, 2], [3, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(4, 3), nn.Linear(3, 2)

        def forward(self, input_ids, attention_mask):
            return self.head(self.embed(input_ids)[:, 0])

    pk.capture(Model(), tokens, tmp_path / "a.zarr", sites=["embed", "head"], reduce={"embed": "mean"})
    _, out, _ = call("info", tmp_path / "a.zarr")
    shown = [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]
    assert "reduce mean (1 sites); none (1 sites)" in shown
    assert "mask attention_mask (1 sites); none (1 sites)" in shown
    assert "node_dim 2, known by embedding (1 sites); 1, known by linear (1 sites)" in shown
    assert pk.info(tmp_path / "a.zarr").sites[0].kept["node_dim"] == "2, known by embedding"


def test_many_classes_are_summed_up(call, tmp_path):
    pk.capture(nn.Identity(), (torch.zeros(100, 2), torch.arange(100) % 25), tmp_path / "a.zarr")
    _, out, _ = call("info", tmp_path / "a.zarr")
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["19", "4"] in rows
    assert ["5", "more", "20"] in rows


def test_a_damaged_store_is_verified_repaired_and_made_whole_again(call, model, tmp_path):
    options = (model, "digits", "acts.zarr", "-s", "2", "--limit", 100, "--batch-size", 10, "--memory", "640")
    assert call("capture", *options, "--durable")[0] == 0
    whole = pk.open("acts.zarr").load()
    code, out, _ = call("verify", "acts.zarr")
    assert (code, "all sound" in out) == (0, True)
    next((tmp_path / "acts.zarr/2/activation/c/4").iterdir()).unlink()

    code, out, err = call("verify", "acts.zarr")
    assert code == 1
    assert ["2", "40–49", "missing", "2/activation"] in [line.replace("│", " ").split() for line in out.splitlines()]
    assert "probekit verify acts.zarr --repair" in err
    code, out, _ = call("verify", "acts.zarr", "--json")
    [damage] = json.loads(out)["damages"]
    assert (code, damage["name"], damage["start"], damage["stop"], damage["what"]) == (1, "2", 40, 50, "missing")

    code, out, err = call("verify", "acts.zarr", "--repair")
    assert (code, "40 samples kept" in out) == (0, True)
    assert "Capture the others again with the same `probekit capture` and --resume." in err
    assert call("verify", "acts.zarr")[0] == 0
    for done in ("Captured into acts.zarr", "acts.zarr was complete already"):
        code, out, err = call("capture", *options, "--resume")
        assert (code, done in out + err) == (0, True)
    xr.testing.assert_identical(pk.open("acts.zarr").load()["2"].to_dataset(), whole["2"].to_dataset())
    assert call("verify", "none.zarr")[0] == 1


def test_chosen_samples_are_measured_and_sites_compared(call, model):
    call("capture", model, "digits", "acts.zarr", "-s", "*", "--limit", 300, "--predictions")
    common = ("measure", "acts.zarr", "-m", "mean")
    code, out, _ = call(*common, "--where", "label=3", "--where", "label=5", "--by", "none", "--json")
    values = pk.open("acts.zarr")["2"]["activation"].load()
    chosen = values[np.isin(values.label, [3, 5])].values.mean(dtype=float)
    assert code == 0
    found = json.loads(out)
    assert {row["site"]: row["value"] for row in found["values"]}["2"] == pytest.approx(chosen)
    assert (found["by"], found["headlines"]["mean"]["over_nodes"], found["compared"]) == ("none", "mean", {})
    code, out, _ = call(*common, "-m", "cka", "--by", "correct", "--nan", "omit")
    assert code == 0
    assert "cka" in out
    assert call(*common, "--nan", "ignore")[0] == 2
    assert call(*common, "--where", "label")[0] == 2


def test_nulls_and_intervals_are_printed(call, model):
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 300)
    line = ("measure", "acts.zarr", "-m", "fisher", "--null", "permute", "--ci", "bootstrap", "--repeats", 20)
    code, out, err = call(*line, "--balance", "--seed", 3)
    assert code == 0
    assert all(word in out for word in ("fisher 95% interval", "fisher p", "fisher_null"))
    assert "Balanced by seed 3: " in err
    found = pk.measure("acts.zarr", "fisher", null="permute", ci="bootstrap", repeats=20, balance=True, seed=3)
    (row,) = json.loads(call(*line, "--balance", "--seed", 3, "--json")[1])["values"]
    assert (row["p"], row["low"]) == (found["2"]["fisher_p_site"].item(), found["2"]["fisher_low_site"].item())
    code, _, err = call(*line, "--within", "speaker")
    assert code == 1
    assert "no column 'speaker'" in err


def test_a_chosen_value_is_of_its_columns_type(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = {
        "subject": ["007", "7", "true"] * 4,
        "session": [7, 8, 9] * 4,
        "weight": [0.5, 1.0, 7.0] * 4,
        "held_out": [True, False, False] * 4,
    }
    x = torch.arange(12.0)[:, None]
    pk.capture(nn.Identity(), (x, torch.arange(12) % 2), "a.zarr", columns=columns, class_names=["ant", "bee"])

    def mean(*where):
        options = [part for each in where for part in ("--where", each)]
        code, out, err = call("measure", "a.zarr", "-m", "mean", "--by", "none", "--json", *options)
        assert code == 0, err
        return json.loads(out)["values"][0]["value"]

    for where, start in {
        "subject=007": 0,
        "subject=7": 1,
        "subject=true": 2,
        "session=8": 1,
        "weight=1": 1,
        "weight=7.0": 2,
        "held_out=True": 0,
        "held_out=1": 0,
    }.items():
        assert mean(where) == pytest.approx(np.arange(start, 12, 3).mean()), where
    assert mean("label=bee") == mean("label=1") == np.arange(1, 12, 2).mean()
    assert mean("subject=007", "subject=7", "label=ant") == pytest.approx(np.mean([0, 4, 6, 10]))
    for where, message in {
        "session=eight": "session holds integers; 'eight' is none",
        "session=8.5": "session holds integers; '8.5' is none",
        "held_out=maybe": "held_out holds true and false; 'maybe' is none",
    }.items():
        code, _, err = call("measure", "a.zarr", "-m", "mean", "--where", where)
        assert code == 2
        assert message in " ".join(err.replace("│", " ").split())
    code, _, err = call("measure", "a.zarr", "-m", "mean", "--where", "label=cat")
    assert (code, "where asks for the class 'cat'; there are 'ant', 'bee'" in err) == (1, True)
    pk.capture(nn.Identity(), (x, torch.arange(12) % 2), "b.zarr", class_names=["15075141", "0"])
    for where, code in {"label=15075141": 0, "label=0": 0, "label=1": 1}.items():
        _, out, _ = call("measure", "b.zarr", "-m", "mean", "--by", "none", "--json", "--where", where)
        assert json.loads(out)["values"][0]["value"] == np.arange(code, 12, 2).mean()
    code, _, err = call("measure", "a.zarr", "-m", "mean", "--where", "subject=8")
    assert (code, "where={'subject': ['8']} selects none of the 12 samples" in err) == (1, True)


def test_what_has_no_number_anywhere_is_said_once(call, model):
    call("capture", model, "digits", "acts.zarr", "-s", "*", "--limit", 40)
    code, out, err = call("measure", "acts.zarr", "-m", "auroc", "-m", "ks", "-m", "mean")
    assert (code, (out + err).count("; otherwise use fisher")) == (0, 1)
    code, out, err = call("measure", "acts.zarr", "-m", "auroc", "--json", "--nodes")
    assert (code, err.count("auroc_rest is missing for")) == (0, 1)


def test_tables_are_written_in_full_and_fit_the_terminal(call, model, tmp_path, monkeypatch):
    call("capture", model, "digits", "acts.zarr", "-s", "*", "--limit", 300)
    many = [part for name in ("auroc", "selectivity", "linear_probe", "cka", "dprime", "mean") for part in ("-m", name)]
    code, out, err = call("measure", "acts.zarr", *many, "--csv", "sites.csv")
    table = pd.read_csv("sites.csv", dtype={"site": str})
    assert (code, "Written to sites.csv." in err) == (0, True)
    assert len(table) == 5 * 6
    assert table.columns.tolist() == list(pk.summary(pk.measure("acts.zarr", "mean")).to_dataframe().columns)
    assert "selectivity is missing for" in out
    code, out, _ = call("measure", "acts.zarr", "-m", "mean", "-m", "dead", "--nodes", "--csv", "nodes.csv", "--json")
    values = pk.measure("acts.zarr", "mean")["2"]["mean"]
    nodes, found = pd.read_csv("nodes.csv", dtype={"site": str}), json.loads(out)["values"]
    assert len(nodes) == len(found) == 10 * (64 + 8 + 8 + 10 + 10)
    np.testing.assert_allclose(nodes[nodes["site"] == "2"]["value"], values.values.ravel())
    assert call("measure", "acts.zarr", "-m", "mean", "--csv", "none/sites.csv")[0] == 2
    assert call("measure", "acts.zarr", "-m", "dead", "--nodes")[0] == 1

    for width in (80, 200):
        monkeypatch.setattr(output, "out", Console(width=width, force_terminal=True, color_system=None))
        code, out, _ = call("measure", "acts.zarr", *many)
        lines = out.splitlines()
        assert code == 0
        assert max(map(len, lines)) <= width
        [*first] = [line for line in lines if "┃" in line]
        heads = first[0].replace("┃", " ").split()
        names = "auroc selectivity linear_probe linear_probe_chance dprime mean cka"
        wanted = f"site n {names} missing" if width == 200 else "metric site value beside n missing"
        assert heads == wanted.split()


def test_a_matrix_that_is_too_wide_is_printed_in_parts(monkeypatch, capsys):
    monkeypatch.setattr(output, "out", Console(width=40, force_terminal=True, color_system=None))
    sites, values = [f"layers.{n}" for n in range(7)], np.arange(49.0).reshape(7, 7)
    output.matrices(xr.Dataset({"cka": (("site", "site_b"), values)}, {"site": sites, "site_b": sites}))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    rows = [line.replace("│", " ").split() for line in lines if "│" in line]
    found = {name: [] for name in sites}
    for name, *row in rows:
        found[name] += map(float, row)
    assert np.array_equal(list(found.values()), values)


def test_top_shows_nodes_and_their_samples(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = torch.eye(3).repeat(20, 1) * torch.arange(60)[:, None]
    model = nn.Sequential(nn.Identity())
    pk.capture(model, (x, torch.arange(60) % 3), "a.zarr", sites="0", class_names=["ant", "bee", "1"])
    code, out, _ = call(
        "top", "a.zarr", "--class", "bee", "--class", "0", "--per-class", "1", "--samples", "2", "--json"
    )
    found = json.loads(out)
    assert (code, found["variable"], found["smallest"]) == (0, "auroc_rest", False)
    assert [(row["class_name"], row["node"]) for row in found["nodes"]] == [("bee", 1), ("ant", 0)]
    assert [(row["node"], row["sample"], row["value"]) for row in found["samples"]] == [
        (1, 58, 58),
        (1, 55, 55),
        (0, 57, 57),
        (0, 54, 54),
    ]
    code, out, _ = call("top", "a.zarr", "--by", "overlap:min_count=5", "--class", "1", "--samples", "1")
    assert (code, "smallest overlap_rest" in out, "The samples with the largest values" in out) == (0, True, True)
    code, _, err = call("top", "a.zarr", "--class", "cat")
    assert (code, "class 'cat'; there are 'ant', 'bee', '1'" in err) == (1, True)
    assert call("top", "a.zarr", "--by", "linear_probe")[0] == 1


def test_without_metrics_those_that_fit_are_measured_and_said(call, model):
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 200)
    code, out, err = call("measure", "acts.zarr")
    assert code == 0
    assert "Measured by default: mean (where the values lie); " in err
    assert "sparsity (there are sites whose least value is 0)" in err
    assert "linear_probe_chance" in out
    assert "default_metrics" in json.loads(call("measure", "acts.zarr", "--json")[1])
    assert "by default" not in call("measure", "acts.zarr", "-m", "mean")[2]
