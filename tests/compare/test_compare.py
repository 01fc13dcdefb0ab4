"""Stores side by side: numbers against numpy and scipy, on samples in different orders."""

from __future__ import annotations

import re
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import probekit as pk
from probekit._compare import between, differences, members, reordering
from probekit._measure.site_source import Source
from probekit.errors import DataError, PluginError, ProbekitError, SiteError, StoreError
from probekit.progress import silent
from tests.models import mlp

CLASSES = 4


def store(sites: dict[str, np.ndarray], ids: np.ndarray, labels: np.ndarray | None = None, **attrs: Any) -> xr.DataTree:
    """An open store of these activations."""
    columns = {"sample_id": ("sample", ids)} | ({} if labels is None else {"label": ("sample", labels)})
    root = xr.Dataset(coords=columns, attrs=attrs)
    if labels is not None:
        root["class_name"] = ("class", [f"c{code}" for code in range(CLASSES)])
    groups = {
        name: xr.Dataset({"activation": (("sample", "node"), x)}, attrs={"site": name}) for name, x in sites.items()
    }
    return xr.DataTree.from_dict({"/": root, **groups})


def shuffled(x: dict[str, np.ndarray], ids: np.ndarray, labels: np.ndarray, seed: int = 9) -> xr.DataTree:
    order = np.random.default_rng(seed).permutation(len(ids))
    return store({name: each[order] for name, each in x.items()}, ids[order], labels[order])


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Ids, labels, and the activations of two models at two sites each."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(60) % CLASSES)
    ids = rng.permutation(1000)[:60]
    base = rng.normal(size=(60, 5)) + labels[:, None]
    first = {"a": base @ rng.normal(size=(5, 7)), "b": np.tanh(base @ rng.normal(size=(5, 6)))}
    second = {"a": first["a"] + rng.normal(size=(60, 7)), "b": rng.normal(size=(60, 6)) + labels[:, None]}
    return ids, labels, first, second


def debiased(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased CKA from the kernels themselves: Song et al. (2012), eq. 5."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n, ones = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        middle = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (ones @ k @ m @ ones)
        return (np.trace(k @ m) + middle) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def biased(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def rsa(x: np.ndarray, y: np.ndarray, labels: np.ndarray) -> float:
    def apart(a: np.ndarray, b: np.ndarray) -> float:  # of distinct samples
        return float(
            np.square(a.mean(0) - b.mean(0)).sum() - sum(each.var(0, ddof=1).sum() / len(each) for each in (a, b))
        )

    groups = [[each[labels == code] for code in range(CLASSES)] for each in (x, y)]
    return float(stats.spearmanr(*([apart(a, b) for a, b in combinations(each, 2)] for each in groups)).statistic)


@pytest.mark.parametrize("memory", ["1GiB", 4000])
def test_similarities_are_those_of_numpy_and_scipy_in_any_order_and_memory(data, memory):
    ids, labels, first, second = data
    joined = members.matched(members.opened([store(first, ids, labels), shuffled(second, ids, labels)], None))
    found = between.between(joined, members_memory(memory), silent).similarity
    for a, x in first.items():
        for b, y in second.items():
            at = found.sel(store="store 2", site=a, site_b=b)
            np.testing.assert_allclose(at["cka"], debiased(x, y), rtol=1e-9)
            np.testing.assert_allclose(at["cka_biased"], biased(x, y), rtol=1e-9)
            np.testing.assert_allclose(at["rsa"], rsa(x, y, labels), rtol=1e-9)


def members_memory(memory: str | int) -> int:
    return memory if isinstance(memory, int) else 2**30


@pytest.mark.parametrize("memory", ["1GiB", 600])
def test_nodes_correlate_as_numpy_says(data, memory):
    ids, _, first, second = data
    second = second | {"a": second["a"] * [1, 1, 0, 1, 1, 1, 1]}  # a constant node
    joined = members.matched(members.opened([store(first, ids), shuffled_unlabelled(second, ids)], None))
    found = between.between(joined, members_memory(memory), silent).nodes["store 2", "a"]
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.corrcoef(first["a"].T, second["a"].T)[:7, 7:]
    np.testing.assert_allclose(found["correlation"], np.diag(table), rtol=1e-9)
    assert np.isnan(found["correlation"][2])
    np.testing.assert_allclose(found["best_correlation"], np.nanmax(table, axis=1), rtol=1e-9)
    assert found["best_node"].values.tolist() == np.nanargmax(table, axis=1).tolist()


def shuffled_unlabelled(x: dict[str, np.ndarray], ids: np.ndarray) -> xr.DataTree:
    order = np.random.default_rng(3).permutation(len(ids))
    return store({name: each[order] for name, each in x.items()}, ids[order])


def test_the_same_store_in_another_order_is_the_same(data):
    ids, labels, first, _ = data
    found = pk.compare(
        [store(first, ids, labels), shuffled(first, ids, labels)], ["mean", "dprime:min_count=2", "linear_probe"]
    )
    frame = found.to_dataframe()
    np.testing.assert_allclose(frame["difference"], 0, atol=1e-12)
    np.testing.assert_allclose(frame["error"], 0, atol=1e-12)
    for name in ("cka", "cka_biased", "rsa"):
        np.testing.assert_allclose(np.diag(found.similarity[name][0]), 1, rtol=1e-12)
    for site in ("a", "b"):
        np.testing.assert_allclose(found.nodes[site]["correlation"], 1, rtol=1e-12)
        np.testing.assert_allclose(found.nodes[site]["mean"], 0, atol=1e-12)
    assert found.cautions == ()


def test_a_copy_with_permuted_nodes_has_cka_1_and_finds_each_node_again(data):
    ids, labels, first, _ = data
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    found = pk.compare([store(first, ids, labels), shuffled({"a": first["a"][:, order]}, ids, labels)], "mean")
    np.testing.assert_allclose(found.similarity["cka"].sel(site="a", site_b="a"), 1, rtol=1e-12)
    nodes = found.nodes["a"].sel(store="store 2")
    np.testing.assert_allclose(nodes["best_correlation"], 1, rtol=1e-12)
    assert order[nodes["best_node"].values.astype(int)].tolist() == list(range(7))
    assert (nodes["correlation"] < 0.99).all()


def test_unrelated_wide_sites_have_no_debiased_cka():
    rng = np.random.default_rng(1)
    found = pk.compare([store({"a": rng.normal(size=(40, 400))}, np.arange(40)) for _ in "ab"], "mean", repeats=2)
    assert abs(found.similarity["cka"].item()) < 0.08
    assert found.similarity["cka_biased"].item() > 0.8


def test_the_error_of_a_mean_is_that_of_the_paired_differences():
    rng = np.random.default_rng(2)
    x, ids = rng.normal(size=(400, 1)) * 10, np.arange(400)
    y = x + rng.normal(size=(400, 1))
    found = pk.compare([store({"a": x}, ids), store({"a": y}, ids)], "mean", repeats=300)
    (row,) = found.differences
    assert row.difference == pytest.approx((y - x).mean())
    assert row.error == pytest.approx((y - x).std(ddof=1) / np.sqrt(400), rel=0.12)
    np.testing.assert_allclose(found.nodes["a"]["mean_error"], row.error)
    low, high = found.to_dataframe().loc[0, ["low", "high"]]
    quantile = stats.t.ppf(0.975, 300)
    assert (low, high) == pytest.approx((row.difference - quantile * row.error, row.difference + quantile * row.error))


def test_intervals_cover_the_difference_as_often_as_they_say():
    """150 nodes with independent noise are so many experiments of which the difference is 0."""
    rng = np.random.default_rng(3)
    ids, labels = np.arange(200), np.arange(200) % CLASSES
    x, y = (store({"a": rng.normal(size=(200, 150))}, ids, labels) for _ in "ab")
    metrics = ["median", "std", "auroc", "ks", "overlap"]
    nodes = pk.compare([x, y], metrics, confidence=0.9).nodes["a"].sel(store="store 2")
    for name in metrics:
        covered = (abs(nodes[name]) <= stats.t.ppf(0.95, 10) * nodes[f"{name}_error"]).mean().item()
        assert 0.84 < covered < 0.97, name


def test_the_interval_of_a_difference_ends_where_differences_do(data):
    ids, labels, first, _ = data
    apart = {"a": np.eye(7)[labels % 2] + 0.1 * first["a"] / np.abs(first["a"]).max()}
    found = pk.compare(
        [store({"a": first["a"]}, ids, labels), store(apart, ids, labels)],
        metrics=["separability", "overlap:min_count=1,corrected=False", "sparsity"],
        confidence=0.9999,
        repeats=2,
    )
    rows = found.to_dataframe().set_index("metric")
    assert found.spans == {"separability": np.inf, "overlap": 1.0, "sparsity": 1.0}
    half = found.settings.quantile * rows["error"]
    assert (rows["difference"] - half)["overlap"] < -1 == rows.loc["overlap", "low"]
    assert rows.loc["separability", "high"] == (rows["difference"] + half)["separability"]
    moved = found.moved_nodes("overlap", 50)
    assert (moved["high"].max(), moved["low"].min()) == (1, -1)


def test_halves_have_half_of_each_class_and_go_by_the_ids(data):
    ids, labels, first, _ = data
    one = members.opened([store(first, ids, labels), shuffled(first, ids, labels)], None)
    halves = [list(differences._halves(each, 3, 0)) for each in one]
    for a, b in zip(*halves, strict=True):
        assert sorted(one[0].ids[a]) == sorted(one[1].ids[b])
        assert set(np.bincount(labels[a]) * 2 - np.bincount(labels)) <= {-1, 0, 1}


def test_only_common_samples_and_sites_are_compared_and_the_rest_is_said(data):
    ids, labels, first, second = data
    other = store({"b": second["b"][10:, :4], "c": second["a"][10:]}, ids[10:], labels[10:])
    found = pk.compare({"old": store(first, ids, labels, data="digits"), "new": other}, ["mean", "std"])
    assert found.samples == 50
    assert {row.site for row in found.differences} == {"b"}
    (mean, _) = found.differences
    grouped = [[x["b"][10:][labels[10:] == code].mean(0) for code in range(CLASSES)] for x in (first, second)]
    expected = np.mean([row[:4] for row in grouped[1]]) - np.mean(grouped[0])
    assert mean.difference == pytest.approx(expected)
    assert "mean" not in found.nodes["b"]
    assert set(found.similarity["site_b"].values) == {"b", "c"}
    said = " ".join(found.cautions)
    for text in (
        "50 samples in common",
        "old has 60, new has 50",
        "Only old has a",
        "Only new has c",
        "b has 6 nodes in old and 4 in new",
    ):
        assert text in said, said


def test_other_labels_classes_data_and_reductions_are_said(data):
    ids, labels, first, _ = data
    one = store(first, ids, labels, data="digits")
    two = store(first, ids, (labels + (np.arange(60) < 5)) % CLASSES, data="mnist")
    two["class_name"] = two["class_name"].copy(data=["w", "x", "y", "z"])
    two["a"].attrs["reduce"] = '["mean"]'
    said = " ".join(pk.compare({"one": one, "two": two}, "mean", repeats=2).cautions)
    for text in ("data (digits and mnist)", "5 of 60 common samples", "w, x, y, z", 'reduce (none and ["mean"])'):
        assert text in said, said


def test_tokens_are_joined_by_sample_and_position():
    rng = np.random.default_rng(4)
    sample, position = np.repeat([5, 6, 7, 8], 6), np.tile(np.arange(6), 4)
    x, y = rng.normal(size=(2, 24, 3))

    def tokens(x: np.ndarray, order: np.ndarray) -> xr.DataTree:
        coords = {"sample_id": ("row", sample[order]), "position": ("row", position[order])}
        site = xr.Dataset({"activation": (("row", "node"), x[order])}, coords)
        return xr.DataTree.from_dict({"/": xr.Dataset(coords={"sample_id": ("sample", [5, 6, 7, 8])}), "h": site})

    order = rng.permutation(24)[:20]
    found = pk.compare([tokens(x, np.arange(24)), tokens(y, order)], "mean", repeats=2)
    kept = np.sort(order)
    np.testing.assert_allclose(found.similarity["cka"].item(), debiased(x[kept], y[kept]), rtol=1e-9)
    (row,) = found.differences
    assert row.difference == pytest.approx((y[kept] - x[kept]).mean())
    assert "Tokens of store 1 that aren't in all stores are left out: 4 at h." in found.cautions


def test_stores_on_disk_in_another_order(tmp_path):
    torch.manual_seed(0)
    x, y = torch.randn(70, 6), torch.arange(70) % 3
    order = torch.randperm(70)
    model = mlp(8)
    pk.capture(model, (x, y), tmp_path / "a.zarr", sites=["1", "2"])
    pk.capture(model, {"input": x[order], "label": y[order], "sample_id": order}, tmp_path / "b.zarr", sites=["1", "2"])
    found = pk.compare([tmp_path / "a.zarr", tmp_path / "b.zarr"], ["mean", "linear_probe"], memory="1MiB")
    assert found.names == ("a", "b")
    np.testing.assert_allclose(found.to_dataframe()["difference"], 0, atol=1e-6)
    np.testing.assert_allclose(np.diag(found.similarity["cka"][0]), 1, rtol=1e-6)


def test_rows_are_put_in_another_order_part_by_part(monkeypatch):
    x = np.random.default_rng(5).normal(size=(50, 3, 2, 2)).astype(np.float32)
    variable = xr.Variable(("sample", "channel", "y", "x"), x, encoding={"chunks": (8, 2, 2, 2)})
    source = Source("a", "a", xr.Dataset({"activation": variable}))
    rows = np.random.default_rng(6).permutation(50)[:31]
    monkeypatch.setattr(reordering, "_READ_BYTES", 1)
    found = reordering.reordered(source, rows)
    np.testing.assert_array_equal(found, x[rows])
    assert (found.dims, found.dtype, found.encoding["chunks"]) == (variable.dims, x.dtype, (8, 2, 2, 2))
    monkeypatch.setattr(reordering.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(ProbekitError, match=r"another order .* 1\.453 KiB in .* has 100 bytes free\. Set TMPDIR"):
        reordering.reordered(source, rows)


def test_three_stores_are_compared_with_the_first(data, tmp_path):
    ids, labels, first, second = data
    stores = {"x": store(first, ids, labels), "y": shuffled(second, ids, labels), "z": store(first, ids, labels)}
    found = pk.compare(stores, ["mean", "auroc"], repeats=2)
    assert len(found.differences) == 2 * 2 * 2
    assert found.similarity["cka"].sizes == {"store": 2, "site": 2, "site_b": 2}
    for what in found.kinds:
        assert found.plot(what).axes
    for metric in found.node_metrics:
        assert len(found.plot(metric, nodes=True).axes) == 2
    moved = found.moved_nodes("auroc", 3)
    assert moved["store"].tolist() == ["y"] * 3
    assert moved["difference"].abs().is_monotonic_decreasing
    page = found.write(tmp_path / "new" / "compare.html", title="<x> & others").read_text()
    assert "&lt;x&gt; &amp; others" in page
    assert page.count("<figure>") >= 6
    text = str(found)
    assert "y, z less x, on 60 common samples" in text
    assert "95% interval" in text
    assert found._repr_html_().count("<table") == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"stores": []}, DataError, "two or more stores"),
        ({"stores": 1}, DataError, "there is one"),
        ({"stores": "a.zarr"}, DataError, "stores is"),
        ({"stores": "absent"}, StoreError, "There is no store at"),
        ({"stores": "results"}, DataError, "holds results"),
        ({"stores": "apart"}, DataError, "no sample in common"),
        ({"stores": "touching"}, DataError, "one sample, too few, in common by their 'sample_id'; the first ones are"),
        ({"metrics": "correlation"}, DataError, "correlation needs a target, which compare doesn't take: leave corr"),
        (
            {"stores": "unlabelled", "metrics": "auroc"},
            DataError,
            "not grouped, since store 2 has no labels: leave",
        ),
        ({"stores": "unnamed"}, DataError, "no 'sample_id'"),
        ({"stores": "twice"}, DataError, "share a 'sample_id'"),
        ({"metrics": "cka"}, DataError, "compares the sites of one store"),
        ({"metrics": "histogram"}, DataError, "histogram has no headline"),
        ({"metrics": "maen"}, PluginError, "maen"),
        ({"sites": "nowhere"}, SiteError, "nowhere"),
        ({"repeats": 1}, DataError, "at least 2"),
        ({"confidence": 95}, DataError, "between 0 and 1"),
        ({"seed": -1}, DataError, "below 0"),
        ({"memory": "much"}, ProbekitError, "much"),
    ],
)
def test_what_is_wrong_is_said(data, change, error, message):
    ids, labels, first, _ = data
    one = store(first, ids, labels)
    special: dict[Any, Any] = {
        1: [one],
        "absent": [one, "absent.zarr"],
        "results": [one, pk.measure(one, "mean")],
        "apart": [one, store(first, ids + 5000, labels)],
        "touching": [one, store(first, np.append(ids[:1], ids[1:] + 5000), labels)],
        "unlabelled": [one, store(first, ids)],
        "unnamed": [
            one,
            store(first, ids, labels).map_over_datasets(lambda each: each.drop_vars("sample_id", errors="ignore")),
        ],
        "twice": [one, store(first, ids // 100, labels)],
    }
    arguments = {"stores": [one, one], "metrics": "mean"} | change
    if isinstance(arguments["stores"], int | str):
        arguments["stores"] = special.get(arguments["stores"], arguments["stores"])
    with pytest.raises(error, match=re.escape(message)) as raised:
        pk.compare(**arguments)
    assert not re.search(r"np\.|target=|by=", str(raised.value))


def test_an_interval_that_halves_are_too_small_for_is_missing_and_said(data):
    ids, labels, first, second = data  # 15 samples of a class, and ks needs 10
    stores = [store(first, ids, labels), store(second, ids, labels)]
    found = pk.compare(stores, "ks", repeats=2)
    assert all(np.isfinite(row.difference) and np.isnan(row.error) for row in found.differences)
    assert "The interval of ks is missing at a, b: half of the samples are too few for it." in found.notes
    few = np.where(np.arange(60) < 50, 0, np.arange(60) % 2)  # one class has 5, and half of it 2 or 3
    stores = [store(first, ids, few), store(second, ids, few)]
    for needed, known in ((3, False), (2, True)):
        found = pk.compare(stores, ["mean", f"dprime:min_count={needed}"], repeats=2)
        errors = {row.metric: row.error for row in found.differences if row.site == "a"}
        assert np.isfinite(errors["mean"])
        assert np.isfinite(errors["dprime"]) == known
        assert np.isfinite(found.site_nodes["a"]["dprime_error"]).all() == known


def test_the_largest_of_the_nodes_has_no_interval(data):
    ids, labels, first, second = data
    found = pk.compare([store(first, ids, labels), store(second, ids, labels)], "auroc:min_count=2", repeats=2)
    assert all(np.isfinite(row.difference) and np.isnan(row.error) for row in found.differences)
    assert "The interval of auroc is missing at a, b: it is the largest of the nodes." in found.notes
    assert np.isfinite(found.site_nodes["a"]["auroc_error"]).all()  # each node has its own


def test_two_classes_are_said_to_be_too_few_for_rsa(data):
    ids, labels, first, _ = data
    found = pk.compare([store(first, ids, labels % 2)] * 2, "mean", repeats=2)
    assert any("rsa has no number: it ranks pairs of classes" in each for each in found.cautions)


def test_a_metric_without_a_number_and_few_classes_are_said(data):
    ids, labels, first, second = data
    stores = {"old": store(first, ids, labels % 3), "new": store(second, ids, labels % 3)}
    found = pk.compare(stores, ["selectivity", "fisher"], repeats=2)
    said = r"selectivity is missing for (\d+) of \1 values at a of old, b of old, a of new and 1 more: nodes go below 0"
    assert any(re.match(said, each) for each in found.cautions)
    assert any(each.startswith("rsa ranks the 3 pairs of 3 classes") for each in found.cautions)
    alone = pk.compare({name: store(first, ids, np.zeros(60, int)) for name in stores}, "fisher", repeats=2)
    (said,) = (each for each in alone.cautions if "missing" in each)
    assert said.endswith("it compares classes, and there is one.")


def test_a_store_with_nan_is_named(data):
    ids, labels, first, _ = data
    faulty = first | {"b": np.where(np.arange(60)[:, None] == 3, np.nan, first["b"])}
    with pytest.raises(
        DataError, match=r"^new can't be compared\. Site 'b' holds NaN [^']*leaves no samples out"
    ) as found:
        pk.compare({"old": store(first, ids, labels), "new": store(faulty, ids, labels)}, "mean")
    assert "omit" not in str(found.value)


def test_plot_and_moved_nodes_refuse_what_was_not_compared(data):
    ids, labels, first, _ = data
    found = pk.compare([store(first, ids, labels)] * 2, ["mean", "effective_rank"], repeats=2)
    for call in (
        lambda: found.plot("medain"),
        lambda: found.plot("effective_rank", nodes=True),
        lambda: found.moved_nodes("effective_rank"),
        lambda: found.moved_nodes("mean", 0),
    ):
        with pytest.raises(DataError):
            call()


def test_a_comparison_draws_its_own_bars_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    described = []

    def bars(items, /, description, total=None):
        described.append(description)
        yield from items

    monkeypatch.setattr("probekit._bars.Bars", lambda: bars)
    random = np.random.default_rng(0)
    x, ids, labels = {"a": random.normal(size=(40, 3))}, np.arange(40), np.arange(40) % CLASSES
    pk.compare({"one": store(x, ids, labels), "two": store(x, ids, labels)}, "mean", repeats=2)
    assert described[0] == "2 stores, 2 times in halves"
    assert not [each for each in described if each.startswith("measure")]


def test_models_without_a_common_site_are_told_by_their_closest_sites() -> None:
    random = np.random.default_rng(0)
    x, ids, labels = random.normal(size=(60, 4)), np.arange(60), np.arange(60) % CLASSES
    rotated = x @ stats.special_ortho_group.rvs(4, random_state=1)
    first = store({"conv": x, "fc": random.normal(size=(60, 4))}, ids, labels)
    found = pk.compare({"one": first, "two": store({"h.0": random.normal(size=(60, 4)), "h.1": rotated}, ids, labels)})
    assert not found.differences
    (conv, _) = found.closest_table.rows
    assert conv[:3] == ("conv", "two", "h.1")
    assert conv[3] == pytest.approx(1)
    assert [each.title for each in found.tables] == [found.closest_table.title]
    assert "closest to those of one" in str(found)
    assert not any("every store" in note and "most alike" in note for note in found.notes)
