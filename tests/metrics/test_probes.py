"""Linear probes, against scikit-learn's classifiers on the same split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from scipy.linalg import sqrtm
from scipy.stats import binomtest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from sklearn.preprocessing import StandardScaler

import probekit as pk
from probekit.errors import DataError, PluginError
from probekit.metrics import LinearProbe, Samples
from probekit.metrics._kernels import linear_classifiers
from probekit.metrics._kernels.row_sampling import draws
from probekit.metrics._kernels.splits import MeanOfGroups, Split, wilson

SamplesOf = Callable[..., Samples]
METHODS = ["logistic", "lda", "ridge"]


def found(metric: LinearProbe, samples: Samples) -> dict[str, float]:
    """The variables, without the metric's name."""
    variables = metric.compute_samples(samples)
    assert all(dims == () and array.shape == () for dims, array in variables.values())
    names = ("accuracy", "chance", "shuffled", "se", "effective_size")
    of_balanced = [f"balanced_{name}" for name in names[1:]]
    kinds = (*names, "balanced", *of_balanced, "alpha", "held_out")
    given = {name.removeprefix("linear_probe_"): float(array) for name, (_, array) in variables.items()}
    given["accuracy"] = given.pop("linear_probe")
    assert given.keys() == {kind for kind in kinds if metric.shuffles or "shuffled" not in kind}
    return given


def held_out_rows(y: np.ndarray, share: float, seed: int, units: np.ndarray | None = None) -> np.ndarray:
    """Of each class those rows whose draws are least, class by class."""
    drawn, held = draws(np.arange(len(y)) if units is None else units, seed), np.zeros(len(y), bool)
    for code in np.unique(y):
        of_class = np.flatnonzero(y == code)
        held[of_class[np.argsort(drawn[of_class])][: int(share * len(of_class) + 0.5)]] = True
    return held


def clusters(classes: int, scale: float = 1, offset: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples of unequal classes that overlap, in 12 dimensions of unequal spread."""
    rng = np.random.default_rng(0)
    y = np.minimum(rng.geometric(0.3, 900) - 1, classes - 1)
    x = (rng.normal(size=(900, 12)) + rng.normal(size=(classes, 12))[y]) @ (rng.normal(size=(12, 12)) / 2)
    return ((x * scale) + offset).astype(np.float32), y


class Penalised:
    """A covariance with α on the diagonal, which scikit-learn's discriminant analysis takes."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def fit(self, x: np.ndarray) -> Penalised:
        self.covariance_ = np.cov(x.T, ddof=0) + self.alpha * np.eye(x.shape[1])
        return self


def scikit_learns(method: str, alpha: float, z: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Its classifier's predictions, trained on the standardised rows z."""
    if method == "ridge":
        ridge = Ridge(alpha=alpha * len(z)).fit(z, np.eye(y.max() + 1)[y])
        return lambda other: ridge.predict(other).argmax(1)
    if method == "lda":
        return LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Penalised(alpha)).fit(z, y).predict
    return LogisticRegression(C=1 / (alpha * len(z)), max_iter=10_000).fit(z, y).predict


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("classes", "alpha", "scale", "offset"), [(2, 1e-3, 1, 0), (5, 1.0, 100, 30), (5, 1e-3, 1, 0)])
def test_it_is_scikit_learns_classifier(
    samples_of: SamplesOf, method: str, classes: int, alpha: float, scale: float, offset: float
) -> None:
    x, y = clusters(classes, scale, offset)
    probed = found(LinearProbe(method, alpha, 0.3, seed=4), samples_of(x, y, classes))
    held = held_out_rows(y, 0.3, 4)
    scaler = StandardScaler().fit(x[~held].astype(np.float64))
    answers = scikit_learns(method, alpha, scaler.transform(x[~held]), y[~held])(scaler.transform(x[held]))
    # The two solvers of a logistic regression stop at points a little apart: a sample between two classes may change.
    tolerance = 1.5 / held.sum() if method == "logistic" else 1e-12
    expected = accuracy_score(y[held], answers)
    np.testing.assert_allclose(probed["accuracy"], expected, rtol=0, atol=tolerance)
    balanced = balanced_accuracy_score(y[held], answers)
    np.testing.assert_allclose(probed["balanced"], balanced, rtol=0, atol=0.05 if method == "logistic" else 1e-12)
    assert probed["chance"] == np.mean(y[held] == np.bincount(y[~held]).argmax()) < probed["accuracy"]
    assert probed["balanced_chance"] == 1 / classes
    assert probed["held_out"] == held.sum()
    accuracy = probed["accuracy"]
    np.testing.assert_allclose(probed["se"], np.sqrt(accuracy * (1 - accuracy) / held.sum()))


def losses_by_scikit_learn(method: str, x: np.ndarray, y: np.ndarray, validation: np.ndarray) -> dict[float, float]:
    """The mean cross-entropy, or the number of mistakes, on the validation rows at each decade."""
    scaler = StandardScaler().fit(x[~validation])
    z, others, losses = scaler.transform(x[~validation]), scaler.transform(x[validation]), {}
    for alpha in 10.0 ** np.arange(2, -7, -1):
        if method == "logistic":
            fitted = LogisticRegression(C=1 / (alpha * len(z)), max_iter=10_000).fit(z, y[~validation])
            losses[alpha] = log_loss(y[validation], fitted.predict_proba(others))
        else:
            losses[alpha] = np.sum(scikit_learns(method, alpha, z, y[~validation])(others) != y[validation])
    return losses


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("noise", [10, 60])
def test_the_penalty_is_chosen_by_rows_of_the_training_part(samples_of: SamplesOf, method: str, noise: int) -> None:
    x, y = clusters(3)
    x = np.column_stack([x, np.random.default_rng(1).normal(size=(900, noise))])[:200]
    y = y[:200]
    held = held_out_rows(y, 0.25, 0)
    validation = held_out_rows(y[~held], 0.25, 0, np.flatnonzero(~held))
    losses = losses_by_scikit_learn(method, x[~held], y[~held], validation)
    probed = found(LinearProbe(method), samples_of(x, y, 3))
    # The two solvers of a logistic regression stop at points a little apart.
    assert losses[probed["alpha"]] <= min(losses.values()) * (1.05 if method == "logistic" else 1) < 0.5 * losses[100]
    assert found(LinearProbe(method, probed["alpha"]), samples_of(x, y, 3)) == probed
    # What is held out has no part in the choice.
    other = np.where(held[:, None], np.random.default_rng(2).normal(size=x.shape), x)
    assert found(LinearProbe(method), samples_of(other, y, 3))["alpha"] == probed["alpha"]


def test_the_penalty_suits_classes_on_a_line_and_wide_noise(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(600) % 10
    line = samples_of(np.column_stack([y + 0.2 * rng.normal(size=600), rng.normal(size=(600, 4))]), y, 10)
    of_line = found(LinearProbe(shuffles=0), line)
    assert of_line["accuracy"] > 0.9 > 0.8 > found(LinearProbe(alpha=1e-3, shuffles=0), line)["accuracy"]
    y = np.arange(900) % 5
    weak = samples_of(rng.normal(size=(900, 200)) + 0.15 * rng.normal(size=(5, 200))[y], y, 5)
    of_weak = found(LinearProbe(shuffles=0, folds=3), weak)
    assert of_weak["accuracy"] > found(LinearProbe(alpha=1e-4, shuffles=0, folds=3), weak)["accuracy"] + 0.03
    assert of_line["alpha"] < 1e-4 < 1e-2 < of_weak["alpha"]


def test_without_two_samples_of_a_class_to_train_on_the_penalty_is_1(samples_of: SamplesOf) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    assert found(LinearProbe(), samples_of(x, np.array([0, 0, 1, 1]), 2))["alpha"] == 1


def test_each_of_the_folds_is_scikit_learns(samples_of: SamplesOf) -> None:
    x, y = clusters(4)
    answers = np.full(900, -1)
    for held in Split.of(np.arange(900), y, 3).folds(4):
        assert (answers[held] == -1).all()
        scaler = StandardScaler().fit(x[~held])
        answers[held] = scikit_learns("ridge", 0.1, scaler.transform(x[~held]), y[~held])(scaler.transform(x[held]))
    probed = found(LinearProbe("ridge", 0.1, seed=3, folds=4), samples_of(x, y, 4))
    np.testing.assert_allclose(probed["accuracy"], np.mean(answers == y), rtol=1e-12)
    assert probed["held_out"] == 900


@pytest.mark.parametrize("method", METHODS)
def test_scale_offset_and_batches_change_nothing(
    samples_of: SamplesOf, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = clusters(4)
    metric = LinearProbe(method)
    whole = found(metric, samples_of(x, y, 4, batch=900))
    assert found(metric, samples_of(x, y, 4, batch=900)) == whole
    scales = 2.0 ** np.arange(-6, 6)  # of each node its own
    monkeypatch.setattr(linear_classifiers, "_KEPT", 0)  # the rows are read anew each time
    assert found(metric, samples_of(x.astype(np.float64) * scales + 1024, y, 4, batch=70)) == whole


def test_a_class_between_others_is_said_but_by_ridge(samples_of: SamplesOf) -> None:
    y = np.repeat(np.arange(10), 100)
    line = samples_of(y[:, None] + 0.2 * np.random.default_rng(0).normal(size=(1000, 1)), y, 10)
    assert found(LinearProbe(), line)["accuracy"] > 0.95
    assert found(LinearProbe("lda"), line)["accuracy"] > 0.95
    assert found(LinearProbe("ridge"), line)["accuracy"] < 0.3


@pytest.mark.parametrize("method", METHODS)
def test_a_node_of_outliers_costs_nothing(samples_of: SamplesOf, method: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(600) % 4
    apart = rng.normal(size=(600, 5)) + 3 * rng.normal(size=(4, 5))[y]
    with_outliers = np.column_stack([apart, 1e4 * rng.standard_t(2, size=600)])
    accuracy = found(LinearProbe(method), samples_of(with_outliers, y, 4))["accuracy"]
    assert accuracy >= found(LinearProbe(method), samples_of(apart, y, 4))["accuracy"] - 0.01 > 0.9


def test_rows_of_a_sample_stay_on_one_side(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    each, y = np.repeat(np.arange(100), 10), rng.integers(0, 5, 100)
    x = (rng.normal(size=(100, 64)) + 0.3 * rng.normal(size=(10, 100, 64))).swapaxes(0, 1).reshape(1000, 64)
    by_row = found(LinearProbe(), samples_of(x, y[each], 5))
    by_sample = found(LinearProbe(), samples_of(x, y[each], 5, units=each))
    assert by_row["accuracy"] > 0.9 > 0.5 > by_sample["accuracy"]
    assert abs(by_sample["balanced"] - 0.2) <= 2 * by_sample["balanced_se"]
    assert abs(by_sample["shuffled"] - by_sample["chance"]) < 2 * by_sample["se"]
    # 26 samples are held out, not 260 rows, and the rows of each are right or wrong together.
    independent = np.sqrt(by_sample["accuracy"] * (1 - by_sample["accuracy"]) / by_sample["held_out"])
    assert by_sample["se"] > 2 * independent


def test_a_rare_class_shows_in_the_balanced_accuracy_only(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    y = (np.arange(2000) % 20 == 0).astype(int)
    noise = found(LinearProbe(), samples_of(rng.normal(size=(2000, 5)), y, 2))
    assert noise["chance"] == noise["accuracy"] == 0.95
    assert noise["balanced"] == noise["balanced_chance"] == noise["balanced_shuffled"] == 0.5


@pytest.mark.parametrize("method", METHODS)
def test_separable_classes_are_told_apart_and_noise_is_not(samples_of: SamplesOf, method: str) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 2000)
    noise = rng.normal(size=(2000, 6)).astype(np.float32)
    apart = found(LinearProbe(method), samples_of(noise[:, :4] / 20 + np.eye(4)[y], y, 4))
    assert apart["accuracy"] == 1
    none = found(LinearProbe(method, shuffles=3), samples_of(noise, y, 4))
    for kind in ("accuracy", "shuffled", "balanced", "balanced_shuffled"):
        assert abs(none[kind] - 0.25) < 3 * none["se"]
    assert abs(apart["shuffled"] - 0.25) < 4 * none["se"]


def test_whitening_changes_no_discriminant_analysis(samples_of: SamplesOf) -> None:
    x, y = clusters(3)
    turned = x.astype(np.float64) @ np.linalg.inv(sqrtm(np.cov(x.T)).real)
    probe = LinearProbe("lda", alpha=1e-9)
    assert found(probe, samples_of(turned, y, 3))["accuracy"] == found(probe, samples_of(x, y, 3))["accuracy"]


def test_a_ring_around_a_class_is_beyond_a_line(samples_of: SamplesOf) -> None:
    rng = np.random.default_rng(0)
    y, angle = rng.integers(0, 2, 1000), rng.random(1000) * 2 * np.pi
    x = np.column_stack([np.cos(angle), np.sin(angle)]) * (1 + 4 * y[:, None])
    assert found(LinearProbe(), samples_of(x, y, 2))["accuracy"] < 0.8  # the inside, and half of the ring
    assert found(LinearProbe(), samples_of(x**2, y, 2))["accuracy"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_samples_changes_nothing(samples_of: SamplesOf, method: str) -> None:
    x, y = clusters(3)
    gaps = np.array([1, 4, 5])
    metric = LinearProbe(method)
    assert found(metric, samples_of(x, gaps[y], 8)) == found(metric, samples_of(x, y, 3))


def test_a_class_that_was_not_trained_on_is_never_said(samples_of: SamplesOf) -> None:
    x, y = clusters(2)
    speaker = np.arange(900) % 10
    y[speaker == 7] = 2  # in no training part where its rows are held out
    probed = found(LinearProbe("ridge", folds=10, shuffles=0), samples_of(x, y, 3, units=speaker))
    old = speaker != 7
    without = found(LinearProbe("ridge", folds=9, shuffles=0), samples_of(x[old], y[old], 2, units=speaker[old]))
    np.testing.assert_allclose(probed["accuracy"], without["accuracy"] * 0.9, atol=0.01)
    np.testing.assert_allclose(probed["balanced"], without["balanced"] * 2 / 3, atol=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_nodes_leave_chance(samples_of: SamplesOf, method: str, value: float) -> None:
    y = np.random.default_rng(0).choice(3, 400, p=[0.2, 0.5, 0.3])
    probed = found(LinearProbe(method), samples_of(np.full((400, 3), value), y, 3))
    assert probed["accuracy"] == probed["chance"] == probed["shuffled"] > 0.4
    assert probed["balanced"] == probed["balanced_chance"] == 1 / 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e200])
def test_infinities_have_no_accuracy(samples_of: SamplesOf, method: str, value: float) -> None:
    x, y = clusters(3)
    held = held_out_rows(y, 0.25, 0)
    for row in (np.flatnonzero(~held)[20], np.flatnonzero(held)[7]):
        wide = x.astype(np.float64)
        wide[row, 5] = value
        probed = found(LinearProbe(method), samples_of(wide, y, 3))
        assert np.isnan(probed["accuracy"]) or (held[row] and np.isfinite(value))
        assert probed["chance"] > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rows", "classes"), [(0, 2), (1, 2), (50, 1)])
def test_too_few_samples_or_classes_are_nan(samples_of: SamplesOf, method: str, rows: int, classes: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 3))
    probed = found(LinearProbe(method), samples_of(x, np.zeros(rows), classes))
    assert probed.pop("held_out") == held_out_rows(np.zeros(rows), 0.25, 0).sum() * (rows > 1)
    assert np.isnan(list(probed.values())).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "svm"}, "method must be 'logistic', 'lda' or 'ridge'"),
        ({"alpha": 0}, "alpha must be a finite number above 0, or None"),
        ({"held_out": 1}, "held_out must be a finite number between 0 and 1"),
        ({"folds": 1}, "folds must be a whole number of at least 2, or None"),
        ({"shuffles": -1}, "shuffles must be a whole number of at least 0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(PluginError, match=rf"LinearProbe\(.*{said}"):
        LinearProbe(**wrong)


def test_the_split_holds_units_together_and_keeps_the_shares_of_classes() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(rng.permutation(200), rng.integers(1, 5, 200))
    codes = rng.choice(4, 200, p=[0.6, 0.3, 0.09, 0.01])[units]
    split = Split.of(units, codes, 1)
    for mask, share in ((split.held_out(0.25), 0.25), *((mask, 0.2) for mask in split.folds(5))):
        assert not np.intersect1d(units[mask], units[~mask]).size
        of_units, counts = (np.unique(units[m] * 4 + codes[m]) % 4 for m in (mask, mask | True))
        apart = np.bincount(of_units, minlength=4) - share * np.bincount(counts, minlength=4)
        assert (abs(apart) <= 1.01).all()
    again = Split.of(units[::-1], np.array([2, 0, 3, 1])[codes[::-1]], 1)  # other codes, in another order
    np.testing.assert_array_equal(again.held_out(0.25)[::-1], split.held_out(0.25))
    for mine, theirs in zip(again.folds(5), split.folds(5), strict=True):
        np.testing.assert_array_equal(mine[::-1], theirs)


def test_rows_of_several_classes_go_by_the_commonest() -> None:
    split = Split.of(np.array([7, 7, 7, 2, 2, 2]), np.array([1, 0, 0, 2, 1, 0]), 0)
    np.testing.assert_array_equal(split.codes, [2, 0])  # of unit 2 the first, of unit 7 the commonest
    assert not split.pure


def tokens(tree_of: Callable[..., xr.DataTree], **columns: np.ndarray) -> tuple[xr.DataTree, np.ndarray]:
    """A site of samples and a site of three tokens for each, whose labels are read off the samples' ids."""
    rng = np.random.default_rng(0)
    y, rows = np.arange(120) % 3, np.repeat(rng.permutation(120), 3)
    x = rng.normal(size=(120, 4)) + np.eye(3, 4)[y] * 2
    tree = tree_of({"pooled": x}, y)
    ids = np.array([f"s{n:03}" for n in rng.permutation(120)])
    root = tree.to_dataset().assign_coords(sample_id=("sample", ids), **{k: ("sample", v) for k, v in columns.items()})
    site = xr.Dataset({"activation": (("row", "node"), x[rows])}, coords={"sample_id": ("row", ids[rows])})
    return xr.DataTree.from_dict({"/": root, "pooled": tree["pooled"].to_dataset(), "tokens": site}), rows


def test_a_store_is_probed_with_one_split_for_all_sites(
    samples_of: SamplesOf, tree_of: Callable[..., xr.DataTree]
) -> None:
    x, y = clusters(4)
    m = pk.measure(tree_of({"a": x, "b": x[:, :3]}, y), [LinearProbe(), "count"])
    for name, values in (("a", x), ("b", x[:, :3])):
        assert m[name]["linear_probe"] == found(LinearProbe(), samples_of(values, y, 4))["accuracy"]
    assert m["a"]["linear_probe_chance"] == m["b"]["linear_probe_chance"]
    assert m["a"]["linear_probe"] > m["b"]["linear_probe"]
    assert np.isnan(pk.measure(tree_of({"a": x}, y), LinearProbe(), by=None)["a"]["linear_probe"])
    tree, _ = tokens(tree_of)
    of_tokens = pk.measure(tree, LinearProbe("ridge"))
    # Each row of a sample is the same: the three of it count as one.
    assert of_tokens["tokens"]["linear_probe"] == of_tokens["pooled"]["linear_probe"] > 0.7
    np.testing.assert_allclose(of_tokens["tokens"]["linear_probe_se"], of_tokens["pooled"]["linear_probe_se"])


def test_the_effective_size_counts_samples_and_not_their_tokens(tree_of: Callable[..., xr.DataTree]) -> None:
    tree, _ = tokens(tree_of)
    m = pk.measure(tree, LinearProbe("ridge"), ci="bootstrap")
    pooled, of_tokens = m["pooled"], m["tokens"]
    np.testing.assert_allclose(pooled["linear_probe_effective_size"], 30)
    assert (pooled["linear_probe_held_out"], of_tokens["linear_probe_held_out"]) == (30, 90)
    for name in ("linear_probe", "linear_probe_balanced"):
        for end in ("effective_size", "low", "high"):
            np.testing.assert_allclose(of_tokens[f"{name}_{end}"], pooled[f"{name}_{end}"])


@pytest.mark.parametrize("hits", [0, 1, 17, 40])
def test_intervals_of_samples_are_scipys(hits: int) -> None:
    groups = MeanOfGroups.of(np.zeros(40, np.int64))
    found = (np.arange(40) < hits).astype(float)
    size = groups.effective_size(found, np.arange(40))
    assert size == pytest.approx(40)
    theirs = binomtest(hits, 40).proportion_ci(0.9, method="wilson")
    np.testing.assert_allclose(wilson(np.array(hits / 40), np.array(size), 0.9), theirs, atol=1e-12)


def test_the_effective_size_of_a_balanced_accuracy_is_that_of_the_classes() -> None:
    groups = MeanOfGroups.of(np.repeat([0, 1], [95, 5]))
    assert groups.effective_size(np.ones(100), np.arange(100)) == pytest.approx(4 / (1 / 95 + 1 / 5))
    # The smaller class alone is at times wrong: as many as that has, no more.
    hits = np.append(np.ones(98), [0, 0])
    assert groups.effective_size(hits, np.arange(100)) == pytest.approx(0.8 * 0.2 / (0.4 * 0.6 / 5 / 4))


@pytest.mark.parametrize(("classes", "samples", "apart"), [(2, 100, 0.3), (10, 200, 0.5), (2, 100, 3.0)])
def test_intervals_hold_the_mean_accuracy(
    tree_of: Callable[..., xr.DataTree], classes: int, samples: int, apart: float
) -> None:
    rng, y = np.random.default_rng(0), np.arange(samples) % classes
    x = rng.normal(size=(80, samples, 8)) + apart * np.random.default_rng(1).normal(size=(classes, 8))[y]
    m = pk.measure(
        tree_of({f"{n}": each for n, each in enumerate(x)}, y), LinearProbe("lda", shuffles=0), ci="bootstrap"
    )
    for name in ("linear_probe", "linear_probe_balanced"):
        value, low, high = (np.array([m[f"{n}"][f"{name}{end}"] for n in range(80)]) for end in ("", "_low", "_high"))
        assert ((low <= value.mean()) & (value.mean() <= high)).mean() >= 0.9
        assert (high - low < 4.8 * max(value.std(), 0.05)).all()  # by the jackknife up to 8 deviations


def test_rows_are_split_by_a_column(tree_of: Callable[..., xr.DataTree]) -> None:
    speakers = np.array([f"speaker {n}" for n in np.arange(120) % 12])
    tree, _ = tokens(tree_of, speaker=speakers)
    m = pk.measure(tree, LinearProbe("ridge", split_by="speaker", folds=5))
    assert m["tokens"]["linear_probe"] == m["pooled"]["linear_probe"]
    with pytest.raises(DataError, match=r"split by 'spaeker' \(split_by=\).*no column 'spaeker'.*Near: 'speaker'"):
        pk.measure(tree, LinearProbe(split_by="spaeker"))


@pytest.mark.parametrize("metric", ["linear_probe", "knn_accuracy", "ridge_probe", "separability", "silhouette"])
def test_what_belongs_together_is_held_out_together(tree_of: Callable[..., xr.DataTree], metric: str) -> None:
    rng, patient = np.random.default_rng(0), np.repeat(np.arange(40), 6)
    y, age = rng.permutation(np.arange(40) % 2)[patient], rng.normal(size=40)[patient]
    x = rng.normal(size=(40, 12))[patient] + 0.3 * rng.normal(size=(240, 12))
    columns = tree_of({"a": x}, y).to_dataset().assign_coords(patient=("sample", patient), age=("sample", age))
    tree = xr.DataTree.from_dict({"/": columns, "a": tree_of({"a": x}, y)["a"].to_dataset()})
    target = "age" if metric == "ridge_probe" else None
    named = {"separability": "separability_nearest_mean", "silhouette": "silhouette_crossfit"}.get(metric, metric)
    measured = [pk.measure(tree, metric, target=target, together=by) for by in (None, "patient")]
    assert [each.attrs.get("together") for each in measured] == [None, "patient"]
    by_row, together = (each["a"][named] for each in measured)
    assert by_row > together + (0.02 if metric == "silhouette" else 0.1)  # which knows the patients
    if metric.endswith(("probe", "accuracy")):
        split = pk.measure(tree, f"{metric}:split_by='patient'", target=target)["a"][named]
        np.testing.assert_array_equal(together, split)


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_share_training_samples(tree_of: Callable[..., xr.DataTree], folds: int) -> None:
    rng, y = np.random.default_rng(0), np.arange(100) % 2
    tree = tree_of({f"{n}": rng.normal(size=(100, 8)) for n in range(80)}, y)
    m = pk.measure(tree, LinearProbe("lda", folds=folds, shuffles=0), ci="bootstrap")
    value, low, high, error = (
        np.array([m[f"{n}"][f"linear_probe{end}"] for n in range(80)]) for end in ("", "_low", "_high", "_se")
    )
    assert ((low <= 0.5) & (high >= 0.5)).mean() > 0.92  # with five independent folds 0.83
    np.testing.assert_allclose(error, np.sqrt(value * (1 - value) / 100 * (1 + folds / (folds - 1))))


@pytest.mark.parametrize("metric", ["linear_probe", "knn_accuracy", "ridge_probe"])
@pytest.mark.parametrize("column", ["label", "clinic"])
def test_a_column_that_leaves_nothing_to_hold_out_is_refused(
    tree_of: Callable[..., xr.DataTree], metric: str, column: str
) -> None:
    tree, _ = tokens(tree_of, clinic=np.zeros(120), age=np.arange(120.0))
    target = "age" if metric == "ridge_probe" else None
    if (metric, column) == ("ridge_probe", "label"):  # it knows no classes
        assert np.isfinite(pk.measure(tree, f"{metric}:split_by='label'", target=target)["pooled"][metric])
        return
    whose = "all samples" if target else "the samples of each class"
    with pytest.raises(
        DataError, match=rf"{metric} is split by '{column}' \(split_by=\), of which {whose} have one value"
    ):
        pk.measure(tree, f"{metric}:split_by='{column}'", target=target)
