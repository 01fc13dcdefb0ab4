import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import probekit as pk
from probekit import load
from probekit.cli import main

MODEL = """
from torch import nn

def make_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(MODEL)
    return "nets.py:make_model"


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command, run in this process."""
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_a_model_is_listed_captured_described_and_measured(capsys, model, tmp_path):
    code, out, _ = call(capsys, "sites", model, "--data", "digits", "--json")
    assert code == 0
    assert [row["site"] for row in json.loads(out)] == ["0", "1", "2", "3", "(root)"]

    code, out, err = call(capsys, "capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 100)
    assert (code, out) == (0, "")
    assert "probekit info acts.zarr" in err

    code, out, _ = call(capsys, "info", "acts.zarr", "--json")
    found = json.loads(out)
    assert (code, found["rows"], found["sites"][0]["name"]) == (0, 100, "2")

    code, out, _ = call(capsys, "measure", "acts.zarr", "-m", "median", "-m", "std", "--out", "m.zarr", "--json")
    values = pk.open("acts.zarr")["2"]["activation"].load()
    medians = np.stack([np.median(values[values.label == c], axis=0) for c in range(10)])
    assert code == 0
    assert json.loads(out)[0]["median"] == pytest.approx(medians.mean())
    written = xr.open_datatree("m.zarr", engine="zarr")["2"]["median"]
    np.testing.assert_array_equal(written.sel(label=3), medians[3])


def test_chosen_samples_are_measured_and_sites_compared(capsys, model):
    call(capsys, "capture", model, "digits", "acts.zarr", "-s", "*", "--limit", 300, "--predictions")
    common = ("measure", "acts.zarr", "-m", "mean")
    code, out, _ = call(capsys, *common, "--where", "label=3", "--where", "label=5", "--by", "none", "--json")
    values = pk.open("acts.zarr")["2"]["activation"].load()
    chosen = values[np.isin(values.label, [3, 5])].values.mean(dtype=float)
    assert code == 0
    assert {row["site"]: row["mean"] for row in json.loads(out)}["2"] == pytest.approx(chosen)
    code, out, _ = call(capsys, *common, "-m", "cka", "--by", "correct", "--nan", "omit")
    assert code == 0
    assert "cka" in out
    assert call(capsys, *common, "--nan", "ignore")[0] == 2
    assert call(capsys, *common, "--where", "label")[0] == 2


def test_a_plan_foretells_what_a_capture_writes(capsys, model):
    options = (model, "digits", "-s", "2", "--limit", 100)
    code, out, _ = call(capsys, "plan", *options, "--json")
    [row] = json.loads(out)
    assert (code, row["site"], row["bytes"]) == (0, "2", 100 * 8 * 4)
    assert call(capsys, "plan", *options)[0] == 0
    call(capsys, "capture", *options[:2], "acts.zarr", *options[2:])
    assert pk.open("acts.zarr")["2"]["activation"].nbytes == row["bytes"]


def test_tables_for_people_show_the_same(capsys, model):
    code, out, _ = call(capsys, "sites", model, "--data", "digits")
    assert code == 0
    for text in ("5 sites", "Linear", "2×64", "float32"):
        assert text in out
    call(capsys, "capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 100)
    code, out, _ = call(capsys, "info", "acts.zarr")
    assert code == 0
    assert "100 samples, complete" in out
    assert "batch_size" in out


def test_info_shows_sizes_shapes_classes_and_how_it_was_made(capsys, model):
    call(capsys, "capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 100, "--compression", "small")
    code, out, _ = call(capsys, "info", "acts.zarr")
    found = pk.info("acts.zarr")
    assert code == 0
    for text in ("100×8", "sample, node", "ReLU", f"{found.sites[0].bytes / 1024:.4g} KiB", found.attrs["weights"]):
        assert text in out
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    for name, count in found.classes.items():
        assert [name, str(count)] in rows


def test_many_classes_are_summed_up(capsys, tmp_path):
    pk.capture(nn.Identity(), (torch.zeros(100, 2), torch.arange(100) % 25), tmp_path / "a.zarr")
    _, out, _ = call(capsys, "info", tmp_path / "a.zarr")
    rows = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["19", "4"] in rows
    assert ["5", "more", "20"] in rows


def test_a_damaged_store_is_verified_repaired_and_made_whole_again(capsys, model, tmp_path):
    options = (model, "digits", "acts.zarr", "-s", "2", "--limit", 100, "--batch-size", 10, "--memory", "640")
    assert call(capsys, "capture", *options, "--durable")[0] == 0
    whole = pk.open("acts.zarr").load()
    code, out, _ = call(capsys, "verify", "acts.zarr")
    assert (code, "all sound" in out) == (0, True)
    next((tmp_path / "acts.zarr/2/activation/c/4").iterdir()).unlink()

    code, out, err = call(capsys, "verify", "acts.zarr")
    assert code == 1
    assert ["2", "40–49", "missing", "2/activation"] in [line.replace("│", " ").split() for line in out.splitlines()]
    assert "probekit verify acts.zarr --repair" in err
    code, out, _ = call(capsys, "verify", "acts.zarr", "--json")
    [damage] = json.loads(out)["damages"]
    assert (code, damage["name"], damage["start"], damage["stop"], damage["what"]) == (1, "2", 40, 50, "missing")

    code, out, _ = call(capsys, "verify", "acts.zarr", "--repair")
    assert (code, "40 samples kept" in out) == (0, True)
    assert call(capsys, "verify", "acts.zarr")[0] == 0
    for done in ("Captured into acts.zarr", "acts.zarr was complete already"):
        code, out, err = call(capsys, "capture", *options, "--resume")
        assert (code, done in out + err) == (0, True)
    xr.testing.assert_identical(pk.open("acts.zarr").load()["2"].to_dataset(), whole["2"].to_dataset())
    assert call(capsys, "verify", "none.zarr")[0] == 1


def test_the_options_of_a_capture_reach_it(capsys, model):
    options = (model, "digits", "-s", "2", "--limit", 20, "--compression", "fast")
    assert call(capsys, "capture", *options[:2], "acts.zarr", *options[2:], "--mode", "train")[0] == 0
    found = pk.info("acts.zarr")
    assert found.attrs["mode"] == "train"
    record = json.loads(Path("acts.zarr/zarr.json").read_text())["consolidated_metadata"]["metadata"]
    assert "blosc" in [codec["name"] for codec in record["2/activation"]["codecs"]]
    assert call(capsys, "plan", *options, "--json")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "relu-vs-sigmoidal"], "Near: 'relu-vs-sigmoid'"),
        (["measure", "acts.zarr", "-m", "std", "--where", "label=77"], "selects none of the"),
        (["measure", "acts.zarr", "-m", "std", "--where", "lable=7"], "Near: 'label'"),
        (["measure", "acts.zarr", "-m", "medain"], "Near: 'median'"),
        (["capture", "nets.py:make_model", "digit", "b.zarr"], "digits"),
        (["capture", "nets.py:mak_model", "digits", "b.zarr"], "make_model"),
        (["capture", "nets.py:make_model", "digits", "b.zarr", "-s", "layer*"], "No site matches 'layer*'"),
        (["capture", "nets.py:make_model", "digits", "acts.zarr"], "exists already"),
        (["capture", "nets.py:make_model", "digits", "nets.py/b.zarr"], "can't be created"),
        (["capture", "nets.py:make_model", "digits", "b.zarr", "--memory", "1KiB"], "memory is 1 KiB"),
        (["info", "nope.zarr"], "There is no store at nope.zarr"),
        (["info", "nets.py"], "isn't a store"),
        (["measure", "nets.py", "-m", "std"], "isn't a store"),
        (["sites", "torchvision:resnet19"], "Near: 'resnet18'"),
        (["run", "relu-vs-sigmoid", "--dataset", "digitz"], "digits"),
        (["run", "relu-vs-sigmoid", "--seeds", "0"], "seeds is 0"),
        (["run", "relu-vs-sigmoid", "--batch-size", "1220"], "leave a last batch of one sample"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_1(capsys, model, arguments, message):
    call(capsys, "capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 20)
    code, out, err = call(capsys, *arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("Error: ")
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert pk.open("acts.zarr").sizes["sample"] == 20  # nothing that was there is lost


@pytest.mark.parametrize(
    "arguments",
    [
        ["capture"],
        ["sites", "nets.py:make_model"],  # no example to run it on
        ["sites", "nets.py:make_model", "--shape", "3by3"],
        ["capture", "nets.py:make_model", "digits", "b.zarr", "--device", "toaster"],
        ["run", "relu-vs-sigmoid", "--depths", "two"],
        ["frobnicate"],
    ],
)
def test_bad_usage_is_exit_code_2(capsys, model, arguments):
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert "Traceback" not in err


def test_an_error_of_the_system_is_one_paragraph_too(capsys, model, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "figures/fig1.png")

    monkeypatch.setattr("probekit.load.dataset", full)
    code, _, err = call(capsys, "capture", model, "digits", "acts.zarr")
    assert code == 1
    assert err == "Error: No space left on device: figures/fig1.png.\n"


SLOW = """
import time
from torch import nn

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(0.5)
        return x
"""


def test_ctrl_c_stops_a_capture_cleanly_and_keeps_what_was_committed(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    command = ["capture", "slow.py:Slow", "digits", "acts.zarr", "--batch-size", "10", "--memory", "6KiB"]
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # which may be ignored here
    run = [sys.executable, "-c", heed + "from probekit.cli import main; main()", *command]
    process = subprocess.Popen(run, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "acts.zarr").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Error: Stopped. What was finished is kept" in err
    assert "Traceback" not in err
    with pytest.warns(UserWarning, match="its capture runs or was stopped"):
        assert pk.open(tmp_path / "acts.zarr").sizes["sample"] % 10 == 0


def test_a_recipes_parameters_are_its_options(capsys):
    code, out, _ = call(capsys, "run", "relu-vs-sigmoid", "--help")
    assert code == 0
    for option in ("--dataset", "--depths", "--epochs", "--seeds", "--batch-size", "--data-dir"):
        assert option in out
    assert "progress" not in out


def test_the_version_is_told(capsys):
    assert call(capsys, "--version") == (0, f"probekit {pk.__version__}\n", "")


def test_capture_on_the_command_line_equals_the_library(capsys, model, tmp_path):
    call(capsys, "capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 50, "--seed", 3)
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    digits = load.dataset("digits")
    x = torch.stack([digits[index][0] for index in range(50)])
    with torch.no_grad():
        expected = net[:3](x).numpy()
    np.testing.assert_array_equal(pk.open("acts.zarr")["2"]["activation"].values, expected)


def test_a_model_that_tells_its_inputs_needs_no_example(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from torchvision.models import squeezenet1_1 as make")
    for name in ("torchvision:squeezenet1_1", "mine.py:make"):
        code, out, _ = call(capsys, "sites", name, "--sites", "classifier*", "--json")
        assert (code, json.loads(out)[-1]["shape"]) == (0, "2×1000×1×1")
    code, out, _ = call(capsys, "sites", "mine.py:make", "--sites", "features.0", "--shape", "3x64x64", "--json")
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


def test_inputs_by_name_are_taken_from_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokens.py").write_text(TOKENS)
    ids = np.array([[5, 6, 7, 0], [8, 9, 0, 0], [1, 2, 3, 4]])
    np.savez("tokens.npz", input_ids=ids, attention_mask=ids > 0, label=np.array(["b", "a", "b"]))
    code, out, _ = call(capsys, "sites", "tokens.py:Net", "--data", "tokens.npz", "--json")
    assert (code, [(row["site"], row["shape"]) for row in json.loads(out)]) == (
        0,
        [("embed", "2×4×3"), ("(root)", "2×4×3")],
    )
    code, _, err = call(
        capsys, "capture", "tokens.py:Net", "tokens.npz", "acts.zarr", "-s", "embed", "--reduce", "last"
    )
    assert code == 0, err
    torch.manual_seed(0)
    expected = nn.Embedding(10, 3).weight.detach()[[7, 9, 4]].numpy()
    tree = pk.open("acts.zarr")
    np.testing.assert_array_equal(tree["embed"]["activation"].values, expected)
    assert tree["label"].values.tolist() == [1, 0, 1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of transformers itself
def test_a_saved_model_of_transformers_is_listed_and_captured(capsys, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    saved = transformers.GPT2LMHeadModel(config).eval()
    saved.save_pretrained("gpt2")
    ids, mask = torch.arange(24).reshape(3, 8) + 1, torch.arange(8) < torch.tensor([[8], [5], [1]])
    np.savez("data.npz", input_ids=ids.numpy(), attention_mask=mask.long().numpy(), label=np.array([0, 1, 0]))

    code, out, err = call(capsys, "sites", "hf:gpt2", "--json")
    assert code == 0, err
    site = "transformer.h.1.mlp.act"
    assert {row["site"]: row["shape"] for row in json.loads(out)}[site] == "2×8×64"

    code, _, err = call(capsys, "capture", "hf:gpt2", "data.npz", "acts.zarr", "--sites", site, "--reduce", "last")
    assert code == 0, err
    seen = []
    saved.get_submodule(site).register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    with torch.no_grad():
        saved(input_ids=ids, attention_mask=mask.long())
    expected = seen[0][torch.arange(3), mask.sum(1) - 1].numpy()
    np.testing.assert_array_equal(pk.open("acts.zarr")[site]["activation"].values, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_of_timm_is_listed(capsys):
    pytest.importorskip("timm")
    code, out, _ = call(capsys, "sites", "timm:resnet10t", "--sites", "layer4.0", "--json")
    assert (code, json.loads(out)[0]["shape"]) == (0, "2×512×6×6")


ODD = """
from torch import nn

class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 8)

    def forward(self, x):
        return self.net(x.squeeze(1).transpose(0, 1)).transpose(0, 1)
"""


@pytest.mark.parametrize(
    ("arguments", "said", "unsaid"),
    [
        (["capture", "nets.py:make_model", "digits", "acts.zarr"], "pass --resume to go on with", "resume="),
        (["capture", "nets.py:make_model", "digits", "s3://b/a", "--durable"], "--durable is for folders", "durable="),
        (["capture", "nets.py:make_model", "digits", "b.zarr", "-s", "layer*"], "`probekit sites`", "probekit.sites("),
        (
            ["capture", "odd.py:Turned", "digits", "b.zarr", "-s", "net"],
            "batch_dim={'net': 1}; or pass a callable that makes it axis 0 in --reduce; or select other sites. "
            "(batch_dim= is for Python: an argument of probekit.capture.)",
            "reduce=",
        ),
        (
            ["capture", "nets.py:make_model", "digits", "b.zarr", "--reduce", "tokens"],
            "--reduce tokens on 0, of shape (3, 64): it has no tokens, which are (batch, position, node). Select sites "
            "that have them (--sites, --exclude)",
            "sites=,",
        ),
        (
            ["capture", "odd.py:Turned", "digits", "b.zarr", "--predictions", "-s", "(root)"],
            "--predictions keeps",
            "=True",
        ),
        (["verify", "nets.py", "--repair"], "isn't a store", "="),
    ],
)
def test_errors_speak_of_options_not_of_arguments(capsys, model, tmp_path, arguments, said, unsaid):
    (tmp_path / "odd.py").write_text(ODD)
    call(capsys, "capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 20)
    code, _, err = call(capsys, *arguments)
    assert code == 1
    assert said in err
    assert unsaid not in err


def test_predictions_are_kept(capsys, model, tmp_path):
    code, _, _ = call(capsys, "capture", model, "digits", "acts.zarr", "-s", "3", "--limit", 50, "--predictions")
    assert code == 0
    site = pk.open("acts.zarr")["3"]
    np.testing.assert_array_equal(site["prediction"], site["activation"].argmax("node"))
    _, out, _ = call(capsys, "info", "acts.zarr", "--json")
    assert json.loads(out)["attrs"]["predictions"] == "kept"
