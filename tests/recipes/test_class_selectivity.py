"""The recipe class-selectivity: it finds the layers of models, measures them, and reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from sklearn.metrics import roc_auc_score
from torch import nn

import probekit as pk
from probekit.errors import DataError, ModelError
from probekit.recipes import class_selectivity
from probekit.recipes.class_selectivity import layers_of


@pytest.mark.parametrize(
    ("name", "first", "last", "number"),
    [
        ("resnet18", "layer1.0", "layer4.1", 8),
        ("vit_b_16", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11", 12),
        ("densenet121", "features.denseblock1.denselayer1", "features.denseblock4.denselayer16", 58),
        ("vgg11", "features.1", "classifier.4", 10),
        ("alexnet", "features.1", "classifier.5", 7),
        ("convnext_tiny", "features.1.0", "features.7.2", 18),
    ],
)
def test_the_layers_are_a_models_blocks_or_its_activations(name: str, first: str, last: str, number: int) -> None:
    with torch.device("meta"):
        found = layers_of(torchvision.models.get_model(name, weights=None))
    assert (found[0], found[-1], len(found)) == (first, last, number)


def test_the_layers_of_a_transformer_are_its_outermost_blocks() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=20, **sizes))
    assert layers_of(model) == tuple(f"bert.encoder.layer.{n}" for n in range(3))


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Linear has no blocks of one class.*--sites"):
        layers_of(nn.Linear(2, 2))


def test_the_default_model_takes_its_own_data(tmp_path: Path) -> None:
    for other in ({"data": "mnist"}, {"limit": 10}):
        with pytest.raises(DataError, match="give --model"):
            class_selectivity.run(out=tmp_path, **other)


@pytest.mark.slow
def test_the_default_runs_and_runs_again(tmp_path: Path) -> None:
    first = class_selectivity.run(out=tmp_path)
    folder = tmp_path / "class-selectivity" / "digits" / "small-cnn"
    assert first.report == folder / "report.html"
    accuracy = pk.info(folder / "acts.zarr").accuracy
    assert accuracy is not None
    assert accuracy > 0.9
    table = first.tables["By layer"].set_index("site").astype(float)
    assert table.loc["6", "linear_probe"] > 0.9
    assert (table["overlap"] < table["overlap_null"]).all()
    store = pk.open(folder / "acts.zarr")
    best = pd.read_csv(folder / "tables" / "best-nodes.csv", dtype={"site": str})
    for row in best.groupby("label").head(1).itertuples():
        values = store[row.site]["activation"].values[:, row.node]
        np.testing.assert_allclose(row.value, roc_auc_score(store["label"].values == row.label, values), atol=1e-9)
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.png" for name in ("overlap", "selectivity", "probe", "rank")
    }
    again = class_selectivity.run(out=tmp_path)
    pd.testing.assert_frame_equal(again.tables["By layer"], first.tables["By layer"])


@pytest.mark.slow
def test_another_model_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))\n"
    )
    x = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    np.savez(tmp_path / "points.npz", x=x, y=np.arange(120) % 3)
    found = class_selectivity.run(model="nets.py:make", data="points.npz", limit=90, sites=("1", "3"), out=tmp_path)
    assert found.report == tmp_path / "class-selectivity" / "points.npz" / "nets.py-make" / "report.html"
    assert found.tables["By layer"]["site"].tolist() == ["1", "3"]
    assert pk.info(found.report.with_name("acts.zarr")).rows == 90
