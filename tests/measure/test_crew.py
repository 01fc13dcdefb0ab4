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
what, how, rows = sys.argv[1:]
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


def ended(*arguments: str) -> tuple[int, str]:
    found = subprocess.run([sys.executable, "-c", _DEEP, *arguments], capture_output=True, text=True)
    assert "terminate called" not in found.stderr
    return found.returncode, found.stdout or found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [("raised", -signal.SIGINT), ("caught", 0)])
def test_a_process_ends_whole_while_a_thread_is_deep_in_a_library(how: str, code: int) -> None:
    assert ended("samples", how, "2000") == (code, "stopped\n")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["nodes", "sites", "live", "live sites"])
def test_ctrl_c_does_not_wait_for_what_is_computed_in_the_end(what: str) -> None:
    assert ended(what, "raised", "8000") == (-signal.SIGINT, "stopped\n")  # half a minute of eigenvalues
