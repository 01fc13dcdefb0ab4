from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time

import pytest

import probekit as pk


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "relu-vs-sigmoidal"], "Near: 'relu-vs-sigmoid'"),
        (["measure", "acts.zarr", "-m", "std", "--where", "label=77"], "asks for the class '77'"),
        (["measure", "acts.zarr", "-m", "std", "--where", "lable=7"], "Near: 'label'"),
        (["measure", "acts.zarr", "-m", "medain"], "Near: 'median'"),
        (["capture", "nets.py:make_model", "digit", "b.zarr"], "digits"),
        (["capture", "nets.py:mak_model", "digits", "b.zarr"], "make_model"),
        (["capture", "nets.py:make_model", "digits", "b.zarr", "-s", "layer*"], "No site matches 'layer*'"),
        (["capture", "nets.py:make_model", "digits", "acts.zarr"], "exists already"),
        (["capture", "nets.py:make_model", "digits", "nets.py/b.zarr"], "can't be created"),
        (
            ["capture", "nets.py:make_model", "digits", "b.zarr", "--memory", "1KiB", "--batch-size", "256"],
            "memory is 1 KiB",
        ),
        (["info", "nope.zarr"], "There is no store at nope.zarr"),
        (["info", "nets.py"], "isn't a store"),
        (["measure", "nets.py", "-m", "std"], "isn't a store"),
        (["sites", "torchvision:resnet19"], "Near: 'resnet18'"),
        (["run", "relu-vs-sigmoid", "--dataset", "digitz"], "digits"),
        (["run", "relu-vs-sigmoid", "--seeds", "0"], "seeds is 0"),
        (["run", "relu-vs-sigmoid", "--batch-size", "1220"], "leave a last batch of one sample"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_1(call, model, arguments, message):
    call("capture", model, "digits", "acts.zarr", "-s", "2", "--limit", 20)
    code, out, err = call(*arguments)
    assert code == 1
    assert out == ""
    *notes, error = err.strip().splitlines()  # what is done to the data is told first
    assert all(note.startswith("Preprocessing: ") for note in notes)
    assert error.startswith("Error: ")
    assert message in error
    assert "Traceback" not in err
    assert pk.open("acts.zarr").sizes["sample"] == 20  # nothing that was there is lost


@pytest.mark.parametrize(
    "arguments",
    [
        ["capture"],
        ["sites", "nets.py:make_model"],  # no example to run it on
        ["sites", "nets.py:make_model", "--shape", "3by3"],
        ["capture", "nets.py:make_model", "digits", "b.zarr", "--device", "toaster"],
        ["run", "relu-vs-sigmoid", "--depths", "two"],
        ["capture", "nets.py:make_model", "digits", "b.zarr", "--dtype", "float8"],
        ["plan", "nets.py:make_model", "digits", "--mode", "evil"],
        ["frobnicate"],
    ],
)
def test_bad_usage_is_exit_code_2(call, model, arguments):
    code, _, err = call(*arguments)
    assert code == 2
    assert "Traceback" not in err


SLOW = """
import time
from torch import nn

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(0.5)
        return x
"""


@pytest.mark.slow
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
    with pytest.warns(UserWarning, match="its capture is running or was stopped"):
        assert pk.open(tmp_path / "acts.zarr").sizes["sample"] % 10 == 0


def test_the_version_is_told(call):
    assert call("--version") == (0, f"probekit {pk.__version__}\n", "")


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_reader_that_has_seen_enough_costs_no_message(option: str) -> None:
    command = f"{shlex.quote(sys.executable)} -c 'from probekit.cli import main; main()' metrics {option} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""
