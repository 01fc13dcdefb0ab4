"""The claims of a run: intervals over paired seeds, and what they decide."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from probekit.recipes.relu_vs_sigmoid import claims
from probekit.recipes.relu_vs_sigmoid.intervals import Estimate, Part
from probekit.recipes.relu_vs_sigmoid.records import Records
from probekit.recipes.relu_vs_sigmoid.settings import resolve
from probekit.recipes.relu_vs_sigmoid.training.networks import Config

SEEDS = 5


def test_an_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(1, 2, 7)
    found = Estimate.of(list(values))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.standard_error == pytest.approx(stats.sem(values))
    assert Estimate.of([3.0]).interval is None


@pytest.mark.parametrize(
    ("wanted", "bound", "margin", "interval", "status"),
    [
        ("above", 0, 0, (1, 2), "held"),
        ("above", 0, 0, (-1, 2), "open"),
        ("above", 0, 0, (-2, -1), "not_held"),
        ("above", 0, 3, (1, 2), "not_held"),  # above 0, by no more than what counts as none
        ("above", 0, 1.5, (1, 2), "held"),
        ("above", 99, 0, (99.5, 99.9), "held"),
        ("not above", 0, 0.5, (-1, 0.4), "held"),
        ("not above", 0, 0.5, (-1, 0.6), "open"),
        ("not above", 0, 0.5, (0.1, 0.6), "not_held"),
        ("within", 1, 0, (-0.5, 0.9), "held"),
        ("within", 1, 0, (0.5, 1.5), "open"),
        ("within", 1, 0, (1.5, 2.5), "not_held"),
        ("within", 1, 0, (-2.5, -1.5), "not_held"),
    ],
)
def test_what_an_interval_decides(
    wanted: str, bound: float, margin: float, interval: tuple[float, float], status: str
) -> None:
    half = (interval[1] - interval[0]) / 2
    effect = Estimate(sum(interval) / 2, half / float(stats.t.ppf(0.975, 4)), 5)
    assert effect.interval == pytest.approx(interval)
    assert Part(effect, wanted, bound, margin).status == status
    assert Part(Estimate(effect.mean, None, 1), wanted, bound, margin).status == "open"


def records(source: str, rates: dict[str, float], **given: object) -> Records:
    """A run whose kinds of networks have these test accuracies, differing from seed to seed."""
    settings = resolve({"source": source, "profile": "section3", "seeds": SEEDS, **given})
    rng = np.random.default_rng(0)
    rows, curves = [], []
    for config in (config for shape in settings.shapes for config in shape):
        for seed in range(SEEDS):
            accuracy = rates[config.kind] + 0.001 * seed + rng.normal(0, 0.0005)
            network = {**asdict(config), "seed": seed}
            rows.append({**network, "epochs": 2, "train_accuracy": 1.0, "test_accuracy": accuracy})
            for epoch, seen in enumerate((0.9, accuracy), 1):
                curves.append({**network, "epoch": epoch, "train_accuracy": 1.0, "validation_accuracy": seen})
    return Records(settings, pd.DataFrame(rows), pd.DataFrame(curves), None)


def test_claim_1_pairs_networks_of_a_seed() -> None:
    run = records("mnist", {"relu": 0.98, "relu-bn": 0.985, "sigmoid": 0.976, "sigmoid-bn": 0.984})
    claim = claims.claims(run)[0]
    seeds = run.curves.groupby(["activation", "batch_norm", "seed"]).validation_accuracy.max().unstack("activation")
    lead = 100 * (seeds.relu - seeds.sigmoid).groupby("seed").mean()
    expected = stats.ttest_1samp(lead, 0).confidence_interval(0.95)
    assert claim.status == "held"
    assert claim.interval == pytest.approx((expected.low, expected.high))
    assert claim.effect == pytest.approx(lead.mean())
    told = claim.numbers["parts"]
    assert {part["status"] for part in told.values()} == {"held"}


@pytest.mark.parametrize(
    ("gap", "gap_with_norm", "status"), [(0.0, 0.02, "held"), (0.03, 0.02, "not_held"), (0.0, 0.0, "not_held")]
)
def test_claim_4_needs_a_gap_with_batch_norm_and_none_without(gap: float, gap_with_norm: float, status: str) -> None:
    rates = {"relu": 0.5 + gap - 0.003, "sigmoid": 0.5, "relu-bn": 0.54 + gap_with_norm - 0.001, "sigmoid-bn": 0.54}
    assert claims.claims(records("cifar10", rates))[3].status == status
    assert claims.claims(records("mnist", rates))[3].status == "not_testable"


@pytest.mark.parametrize(
    ("slopes", "status"),
    [
        ({"relu": -0.2, "sigmoid": -0.5, "relu-bn": 0.3, "sigmoid-bn": 0.2}, "held"),
        ({"relu": -0.2, "sigmoid": -0.5, "relu-bn": 0.3, "sigmoid-bn": -0.2}, "not_held"),  # on average they gain
        ({"relu": 0.2, "sigmoid": -0.9, "relu-bn": 0.3, "sigmoid-bn": 0.2}, "not_held"),
    ],
)
def test_claim_5_is_about_either_activation(slopes: dict[str, float], status: str) -> None:
    run = records("cifar10", dict.fromkeys(slopes, 0.5), depths=(2, 4, 8))
    kinds = [Config(*each) for each in run.results[["activation", "depth", "width", "batch_norm"]].values.tolist()]
    gained = [slopes[kind.kind] * kind.depth / 100 for kind in kinds]
    noise = np.random.default_rng(0).normal(0, 2e-4, len(kinds))
    run = replace(run, results=run.results.assign(test_accuracy=0.5 + np.array(gained) + noise))
    claim = claims.claims(run)[4]
    assert claim.status == status
    told = claim.numbers["parts"]
    assert told["sigmoid: points lost a layer without"]["effect"] == pytest.approx(-slopes["sigmoid"], abs=0.02)
    for name, norm in (("gained a layer with batch norm", True), ("lost a layer without", False)):
        rows = run.results[(run.results.activation == "relu") & (run.results.batch_norm == norm)]
        by_seed = [stats.linregress(each.depth, 100 * each.test_accuracy).slope for _, each in rows.groupby("seed")]
        expected = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
        found = told[f"relu: points {name}"]["interval"]
        assert sorted(np.abs(found)) == pytest.approx(sorted(np.abs([expected.low, expected.high])))


def test_nodes_of_networks_that_do_not_fit_are_not_judged() -> None:
    run = records("mnist", dict.fromkeys(("relu", "relu-bn", "sigmoid", "sigmoid-bn"), 0.9))
    assert "layers.csv" in claims.claims(run)[7].numbers["reason"]
    short = Records(run.settings, run.results.assign(train_accuracy=0.6), run.curves, None)
    assert "60.0% only, with the measured weights" in claims.claims(short)[7].numbers["reason"]
    assert claims.claims(short)[0].status != "not_testable"  # its networks fit in the last epoch


def test_a_run_without_layers_is_judged_by_the_effects_that_it_recorded(tmp_path: Path) -> None:
    run = records("mnist", {"relu": 0.98, "relu-bn": 0.99, "sigmoid": 0.97, "sigmoid-bn": 0.98})
    run.settings.write(tmp_path / "config.json")
    run.results.to_csv(tmp_path / "results.csv")
    run.curves.to_csv(tmp_path / "curves.csv")
    effects = {8: (0.4, 0.01), 9: (-0.3, 0.01), 10: (-0.1, 0.01), 11: (0.1, 0.05), 12: (20.0, 1.0)}
    recorded = [{"id": number, "effect": one, "standard_error": other} for number, (one, other) in effects.items()]
    (tmp_path / "claims.json").write_text(json.dumps(recorded))
    found = claims.claims(Records.read(tmp_path))
    half = float(stats.t.ppf(0.975, SEEDS - 1)) * 0.01
    assert found[9].interval == pytest.approx((-0.1 - half, -0.1 + half))
    # 8 has a second part that is unknown, 9 is refuted by its first, 12 gets its second from the results.
    assert [found[number - 1].status for number in effects] == ["open", "not_held", "not_held", "open", "held"]
    claims.write(found, tmp_path / "claims.json")
    again = claims.claims(Records.read(tmp_path))
    assert [claim.interval for claim in again] == [claim.interval for claim in found]


def test_kinds_are_named_as_rates_are() -> None:
    assert Config("relu", 4, 200, True).kind == "relu-bn"
