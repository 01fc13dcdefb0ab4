from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from probekit import load


def test_a_model_is_listed_captured_described_and_measured(call, model, tmp_path):
    code, out, _ = call("sites", model, "--data", "digits", "--json")
    assert code == 0
    assert [row["site"] for row in json.loads(out)] == ["0", "1", "2", "3", "(root)"]

    code, out, err = call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 100)
    assert (code, out) == (0, "")
    assert "probekit info acts.zarr" in err

    code, out, _ = call("info", "acts.zarr", "--json")
    found = json.loads(out)
    assert (code, found["rows"], found["sites"][0]["name"]) == (0, 100, "2")

    code, out, _ = call("measure", "acts.zarr", "-m", "median", "-m", "std", "--out", "m.zarr", "--json")
    values = pk.open("acts.zarr")["2"]["activation"].load()
    medians = np.stack([np.median(values[values.label == c], axis=0) for c in range(10)])
    assert code == 0
    [reading] = [each for each in json.loads(out)["values"] if each["metric"] == "median"]
    assert (reading["variable"], reading["value"]) == ("median", pytest.approx(medians.mean()))
    written = xr.open_datatree("m.zarr", engine="zarr")["2"]["median"]
    np.testing.assert_array_equal(written.sel(label=3), medians[3])


def test_a_plan_foretells_what_a_capture_writes(call, model):
    options = (model, "digits", "-s", "2", "--limit", 100)
    code, out, _ = call("plan", *options, "--json")
    [row] = json.loads(out)
    assert (code, row["site"], row["bytes"]) == (0, "2", 100 * 8 * 4)
    assert call("plan", *options)[0] == 0
    call("capture", *options[:2], "acts.zarr", *options[2:])
    assert pk.open("acts.zarr")["2"]["activation"].nbytes == row["bytes"]


def test_tables_for_people_show_the_same(call, model):
    code, out, _ = call("sites", model, "--data", "digits")
    assert code == 0
    for text in ("5 sites", "Linear", "2×64", "float32"):
        assert text in out
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 100)
    code, out, _ = call("info", "acts.zarr")
    assert code == 0
    assert "100 samples, complete" in out
    assert "batch_size" in out


def test_the_options_of_a_capture_reach_it(call, model):
    options = (model, "digits", "-s", "2", "--limit", 20, "--compression", "fast")
    assert call("capture", *options[:2], "acts.zarr", *options[2:], "--mode", "train")[0] == 0
    found = pk.info("acts.zarr")
    assert found.attrs["mode"] == "train"
    record = json.loads(Path("acts.zarr/zarr.json").read_text())["consolidated_metadata"]["metadata"]
    assert "blosc" in [codec["name"] for codec in record["2/activation"]["codecs"]]
    assert call("plan", *options, "--json")[0] == 0


def test_a_capture_that_stops_early_writes_the_same(call, model):
    options = (model, "digits", "early.zarr", "-s", "0", "--limit", 20, "--stop-early")
    assert call("capture", *options)[0] == 0
    call("capture", *options[:2], "whole.zarr", *options[3:-1], "--no-predictions")
    early, whole = (pk.open(f"{name}.zarr")["0"].to_dataset() for name in ("early", "whole"))
    xr.testing.assert_equal(early, whole)
    code, _, err = call("capture", *options[:2], "refused.zarr", *options[3:], "--predictions")
    assert code == 1
    assert "--predictions, --stop-early" in err


ODD = """
from torch import nn

class Odd(nn.Identity):
    def forward(self, x):
        if self.training:
            raise RuntimeError("never to be trained")
        return x
"""


def test_a_plan_runs_the_model_as_a_capture_would(call, model):
    Path("odd.py").write_text(ODD)
    code, out, _ = call("plan", model, "digits", "-s", "2", "--predictions", "--json")
    assert (code, json.loads(out)[0]["site"]) == (0, "2")
    for command, out in (("plan", ()), ("capture", ("acts.zarr",))):
        code, _, err = call(command, "odd.py:Odd", "digits", *out, "--predictions")
        assert (code, "predictions=True needs logits" in err) == (1, True)
        code, _, err = call(command, "odd.py:Odd", "digits", *out, "--mode", "train")
        assert (code, "never to be trained" in err) == (1, True)


def test_capture_on_the_command_line_equals_the_library(call, model, tmp_path):
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 50, "--limit-order", "first", "--seed", 3)
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    digits = load.dataset("digits")
    x = torch.stack([digits[index][0] for index in range(50)])
    with torch.no_grad():
        expected = net[:3](x).numpy()
    np.testing.assert_array_equal(pk.open("acts.zarr")["2"]["activation"].values, expected)


def test_predictions_are_kept(call, model, tmp_path):
    code, _, _ = call("capture", model, "digits", "acts.zarr", "-s", "3", "--limit", 50, "--predictions")
    assert code == 0
    site = pk.open("acts.zarr")["3"]
    np.testing.assert_array_equal(site["prediction"], site["activation"].argmax("node"))
    _, out, _ = call("info", "acts.zarr", "--json")
    assert json.loads(out)["attrs"]["predictions"] == "kept"


def test_a_model_that_tells_its_inputs_needs_no_example(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from torchvision.models import squeezenet1_1 as make")
    for name in ("torchvision:squeezenet1_1", "mine.py:make"):
        code, out, _ = call("sites", name, "--sites", "classifier*", "--json")
        assert (code, json.loads(out)[-1]["shape"]) == (0, "2×1000×1×1")
    code, out, _ = call("sites", "mine.py:make", "--sites", "features.0", "--shape", "3x64x64", "--json")
    assert (code, json.loads(out)[0]["shape"]) == (0, "2×64×31×31")


TOKENS = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 3)

    def forward(self, input_ids, attention_mask):
        return self.embed(input_ids)
"""


def test_inputs_by_name_are_taken_from_a_file(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokens.py").write_text(TOKENS)
    ids = np.array([[5, 6, 7, 0], [8, 9, 0, 0], [1, 2, 3, 4]])
    np.savez("tokens.npz", input_ids=ids, attention_mask=ids > 0, label=np.array(["b", "a", "b"]))
    code, out, _ = call("sites", "tokens.py:Net", "--data", "tokens.npz", "--json")
    assert (code, [(row["site"], row["shape"]) for row in json.loads(out)]) == (
        0,
        [("embed", "2×4×3"), ("(root)", "2×4×3")],
    )
    code, _, err = call("capture", "tokens.py:Net", "tokens.npz", "acts.zarr", "-s", "embed", "--reduce", "last")
    assert code == 0, err
    torch.manual_seed(0)
    expected = nn.Embedding(10, 3).weight.detach()[[7, 9, 4]].numpy()
    tree = pk.open("acts.zarr")
    np.testing.assert_array_equal(tree["embed"]["activation"].values, expected)
    assert tree["label"].values.tolist() == [1, 0, 1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of transformers itself
def test_a_saved_model_of_transformers_is_listed_and_captured(call, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    saved = transformers.GPT2LMHeadModel(config).eval()
    saved.save_pretrained("gpt2")
    ids, mask = torch.arange(24).reshape(3, 8) + 1, torch.arange(8) < torch.tensor([[8], [5], [1]])
    np.savez("data.npz", input_ids=ids.numpy(), attention_mask=mask.long().numpy(), label=np.array([0, 1, 0]))

    code, out, err = call("sites", "hf:gpt2", "--json")
    assert code == 0, err
    site = "transformer.h.1.mlp.act"
    assert {row["site"]: row["shape"] for row in json.loads(out)}[site] == "2×8×64"

    code, _, err = call("capture", "hf:gpt2", "data.npz", "acts.zarr", "--sites", site, "--reduce", "last")
    assert code == 0, err
    seen = []
    saved.get_submodule(site).register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    with torch.no_grad():
        saved(input_ids=ids, attention_mask=mask.long())
    expected = seen[0][torch.arange(3), mask.sum(1) - 1].numpy()
    np.testing.assert_array_equal(pk.open("acts.zarr")[site]["activation"].values, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_of_timm_is_listed(call):
    pytest.importorskip("timm")
    code, out, _ = call("sites", "timm:resnet10t", "--sites", "layer4.0", "--json")
    assert (code, json.loads(out)[0]["shape"]) == (0, "2×512×6×6")
