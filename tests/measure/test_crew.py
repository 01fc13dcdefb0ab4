"""The threads of a measurement: who waits for them can be interrupted, whatever they do."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_DEEP = """
import os, signal, sys, threading, time
import numpy as np, torch, xarray as xr
import probekit as pk

signal.signal(signal.SIGINT, signal.default_int_handler)  # which may be ignored here
folder, *cases = sys.argv[1:]
for case in cases:  # a process each, of those that have imported this
    if not (child := os.fork()):
        what, how, rows = case.split(",")
        for number, name in enumerate(("out", "errors"), start=1):
            os.dup2(os.open(f"{folder}/{case}.{name}", os.O_WRONLY | os.O_CREAT), number)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
begun = threading.Event()
at = []

class Deep:
    "Eigenvalues that take seconds, in which no thread can be stopped."
    name, version, parameters = "deep", 1, {}

    def compute_samples(self, samples):
        return self.finalize(samples)

    def finalize(self, state):
        begun.set()
        torch.linalg.eigvalsh(torch.rand(int(rows), int(rows), dtype=torch.float64))
        return {"deep": ((), np.array(1.0))}

class Added(Deep):
    "The same, in the end."
    init = update = merge = lambda self, *args: {"count": torch.zeros(1)}
    compute_samples = None

class Across(Added):
    "The same of all sites."
    scope = "sites"

def interrupt():
    begun.wait()
    time.sleep(0.2)
    at.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

site = xr.Dataset({"activation": (("sample", "node"), np.ones((4, 2)))})
live = lambda metric: pk.measure_live(torch.nn.Sequential(torch.nn.ReLU()), torch.ones(4, 2), metric, sites="0")
runs = {
    "samples": lambda: pk.measure(site, Deep()),
    "nodes": lambda: pk.measure(site, Added()),
    "sites": lambda: pk.measure(site, Across()),
    "live": lambda: live(Added()),
    "live sites": lambda: live(Across()),
}
threading.Thread(target=interrupt, daemon=True).start()
try:
    runs[what]()
except KeyboardInterrupt:
    print("stopped" if time.monotonic() - at[0] < 5 else "waited")  # without a flush of its own
    if how == "raised":
        raise
"""


CASES = [
    *("samples,raised,2000", "samples,caught,2000"),
    *(f"{what},raised,8000" for what in ("nodes", "sites", "live", "live sites")),  # half a minute of eigenvalues
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """The exit status and the output of each case."""
    folder = tmp_path_factory.mktemp("ended")
    run = [sys.executable, "-c", _DEEP, str(folder), *CASES]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    found = {}
    for case, code in zip(CASES, done.stdout.split(), strict=True):
        output, errors = ((folder / f"{case}.{name}").read_text() for name in ("out", "errors"))
        assert "terminate called" not in errors
        found[case] = int(code), output or errors
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [("raised", -signal.SIGINT), ("caught", 0)])
def test_a_process_ends_whole_while_a_thread_is_deep_in_a_library(
    how: str, code: int, ended: dict[str, tuple[int, str]]
) -> None:
    assert ended[f"samples,{how},2000"] == (code, "stopped\n")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["nodes", "sites", "live", "live sites"])
def test_ctrl_c_does_not_wait_for_what_is_computed_in_the_end(what: str, ended: dict[str, tuple[int, str]]) -> None:
    assert ended[f"{what},raised,8000"] == (-signal.SIGINT, "stopped\n")
