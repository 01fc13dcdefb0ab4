"""Metrics by name with parameters are what the same call would make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import probekit as pk
from probekit.metrics import Histogram, KNNAccuracy, Overlap, Quantile, Sparsity, Std, median
from probekit.metrics.parameters import with_parameters


@pytest.mark.parametrize(
    ("metric", "text", "expected"),
    [
        (Std, "ddof=1", Std(ddof=1)),
        (Std, "1", Std(1)),
        (Sparsity, " threshold = -0.5 ", Sparsity(-0.5)),
        (Sparsity, "1e-3", Sparsity(0.001)),
        (Quantile, "0.25,0.75", Quantile([0.25, 0.75])),
        (Quantile, "0.25", Quantile(0.25)),
        (Quantile, "q=[0.25, 0.75]", Quantile([0.25, 0.75])),
        (Quantile, "(0.25, 0.75),", Quantile([0.25, 0.75])),
        (Histogram, "16, edges='width'", Histogram(16, edges="width")),
        (Overlap, 'null="permute",pairs=True', Overlap(null="permute", pairs=True)),
        (Overlap, "null=None", Overlap()),
        (Overlap, "null=permute", Overlap(null="permute")),
        (KNNAccuracy, "distance=cosine, split_by=speaker", KNNAccuracy(distance="cosine", split_by="speaker")),
    ],
)
def test_text_makes_the_metric_that_the_call_makes(metric: type, text: str, expected: object) -> None:
    assert with_parameters(metric, metric.name, text) == expected


@pytest.mark.parametrize(
    ("metric", "text", "message"),
    [
        (Std, "dof=1", "'std:dof=1': the metric 'std' has no parameter 'dof'. Near: 'ddof'. It has ddof"),
        (Overlap, "bin=3", "no parameter 'bin'. Near: 'bins'. It has bins, null, min_count, pairs"),
        (Std, "ddof=-1", r"'std:ddof=-1' is refused. Std\(ddof=-1\): ddof must be a whole number of at least 0"),
        (Std, "ddof='one'", r"is refused. Std\(ddof='one'\): ddof must be a whole number of at least 0"),
        (Std, "1,2", r"'std:1,2' is refused. Std\(ddof=\(1, 2\)\): ddof must be a whole number"),
        (Std, "1, ddof=1", "gives 'ddof' twice"),
        (Std, "ddof=1, ddof=2", "gives a parameter twice"),
        (Overlap, "null=permuted", "null must be 'permute', or None. Near: 'permute'"),
        (Overlap, "pairs=true", "true isn't a value. .*: True. In a shell"),
        (Overlap, "null=none", "none isn't a value. .*: None. In a shell"),
        (KNNAccuracy, "split_by=my-column", r"my - column isn't a value. .* In a shell, .*split_by='my column'"),
        (Std, "ddof=__import__('os')", "__import__.* isn't a value"),
        (Std, "*[1]", "isn't a value"),
        (median, "3", "gives parameters, but the metric 'median' has none"),
        *(
            (Std, text, "can't be read.*'std:ddof=1'")
            for text in ("", "ddof=", "1)(2", "1) + (2", "1) # 2", "**{}", "ddof=1, 2", "a b", "\0", "[" * 999)
        ),
    ],
)
def test_what_cannot_be_taken_is_said(metric: object, text: str, message: str) -> None:
    with pytest.raises(pk.errors.PluginError, match=f"(?s){message}"):
        with_parameters(metric, metric.name, text)


def test_values_are_read_and_never_run(tmp_path: Path) -> None:
    with pytest.raises(pk.errors.PluginError):
        with_parameters(Std, "std", f"ddof=open({str(tmp_path / 'made')!r}, 'w')")
    assert not list(tmp_path.iterdir())


def test_measure_takes_names_with_parameters() -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2
    tree = xr.DataTree.from_dict(
        {"/": xr.Dataset(coords={"label": ("sample", y)}), "a": xr.Dataset({"activation": (("sample", "node"), x)})}
    )
    result = pk.measure(tree, ["std:ddof=1", "sparsity:threshold=0.5", "median"])["a"]
    for code in (0, 1):
        np.testing.assert_allclose(result["std"].sel(label=code), x[y == code].std(0, ddof=1), rtol=1e-12)
        np.testing.assert_array_equal(result["sparsity"].sel(label=code), (x[y == code] <= 0.5).mean(0))
    assert result["std"].attrs["parameters"] == '{"ddof": 1}'
    with pytest.raises(pk.errors.PluginError, match=r"No metric 'sdt'.*Near: 'std'"):
        pk.measure(tree, "sdt:ddof=1")
