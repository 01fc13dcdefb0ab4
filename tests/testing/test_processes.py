"""The law of two processes: they are real, and say what went wrong."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from probekit.testing import ConformanceError, checks

ELSEWHERE = '''
import torch

class Average:
    """Mean of each class at each node."""
    name, version, parameters = "average", 1, {}
    def init(self, spec):
        count = torch.zeros(spec.classes, dtype=torch.int64)
        return {"count": count, "sum": torch.zeros(spec.classes, spec.nodes, dtype=torch.float64)}
    def update(self, state, x, y):
        sums = state["sum"].index_add(0, y, x.double())
        return {"count": state["count"] + torch.bincount(y, minlength=len(sums)), "sum": sums}
    def merge(self, a, b):
        return {key: a[key] + b[key] for key in a}
    def finalize(self, state):
        return {"average": (("label", "node"), (state["sum"] / state["count"][:, None]).numpy())}

class Shifted(Average):
    """A mean, plus a shift that other processes don't know."""
    shift = 0
    def update(self, state, x, y):
        return super().update(state, x + self.shift, y)

class Home(Average):
    """Works in this process alone."""
    here = False
    def update(self, state, x, y):
        if not self.here:
            raise RuntimeError("not at home")
        return super().update(state, x, y)
'''


@pytest.mark.slow
def test_two_processes_are_real_and_say_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    monkeypatch.syspath_prepend(tmp_path)
    elsewhere = import_module("elsewhere")
    local = type("Local", (elsewhere.Average,), {"__doc__": "Can't be imported from anywhere."})
    metrics = [elsewhere.Average(), elsewhere.Shifted(), elsewhere.Home(), local()]
    right, shifted, home, lost = (check for check in checks(*metrics) if check.law.name == "two processes")
    right()
    monkeypatch.setattr(elsewhere.Shifted, "shift", 1)  # here, and not in the processes
    with pytest.raises(ConformanceError, match="of two processes and"):
        shifted()
    with pytest.raises(ConformanceError, match="in another process it raised RuntimeError: not at home"):
        home()
    with pytest.raises(ConformanceError, match="pickling the metric raised"):
        lost()
