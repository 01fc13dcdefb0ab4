"""Data sets of keyword inputs, and captures of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probekit as pk
from probekit import load
from probekit.errors import DataError

IDS = np.array([[5, 6, 7, 0], [8, 9, 0, 0], [1, 2, 3, 4]])
MASK = (IDS > 0).astype(np.int32)
LABELS = np.array([1, 0, 2])


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out: Tensor = self.embed(input_ids)
        return out


def save(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "tokens.npz", **arrays)
    return str(folder / "tokens.npz")


def test_a_sample_is_a_dict_of_tensors_and_a_label(tmp_path: Path) -> None:
    pixels, flags = np.ones((3, 1, 2, 2), np.float64), np.array([[True], [False], [True]])
    data = load.dataset(save(tmp_path, input_ids=IDS.astype(np.int32), pixel_values=pixels, flags=flags, label=LABELS))
    assert isinstance(data, load.KeywordDataset)
    assert (len(data), data.classes) == (3, ["0", "1", "2"])
    sample = data[1]
    assert {key: value.dtype for key, value in sample.items() if key != "label"} == {
        "input_ids": torch.int64,
        "pixel_values": torch.float32,
        "flags": torch.bool,
    }
    assert (sample["input_ids"].tolist(), sample["label"]) == ([8, 9, 0, 0], 0)


@pytest.mark.parametrize("key", ["label", "labels"])
def test_a_file_a_dict_and_hooks_written_by_hand_give_the_same(key: str, tmp_path: Path) -> None:
    arrays = {"input_ids": IDS, "attention_mask": MASK, key: LABELS, "sample_id": np.array(["a", "b", "c"])}
    model = Tokens()
    with torch.no_grad():
        expected = model.embed.weight[[7, 9, 4]].numpy()  # the last token of each sample that the mask keeps
    for name, data in (("file", load.dataset(save(tmp_path, **arrays))), ("dict", arrays)):
        tree = pk.capture(model, data, tmp_path / f"{name}.zarr", sites="embed", reduce="last", batch_size=2)
        np.testing.assert_array_equal(tree["embed"]["activation"].values, expected)
        assert tree["label"].values.tolist() == LABELS.tolist()
        assert tree["sample_id"].values.tolist() == ["a", "b", "c"]


def test_labels_may_be_strings_and_a_limit_keeps_all_classes(tmp_path: Path) -> None:
    file = save(tmp_path, input_ids=IDS, attention_mask=MASK, label=np.array(["eel", "cat", "dog"]))
    data = load.dataset(file, "all", limit=2, limit_order="first")
    assert isinstance(data, load.KeywordDataset)
    assert (len(data), data.classes, data[0]["label"]) == (2, ["cat", "dog", "eel"], "eel")
    tree = pk.capture(Tokens(), data, tmp_path / "a.zarr", sites="embed")
    assert tree["label"].values.tolist() == [2, 0]
    assert tree["class_name"].values.tolist() == ["cat", "dog", "eel"]


def test_classes_may_be_named_and_labels_lack(tmp_path: Path) -> None:
    named = load.dataset(save(tmp_path, input_ids=IDS, label=LABELS, class_names=np.array(["a", "b", "c", "d"])))
    assert isinstance(named, load.KeywordDataset)
    assert named.classes == ["a", "b", "c", "d"]
    unlabelled = load.dataset(save(tmp_path, input_ids=IDS, attention_mask=MASK))
    tree = pk.capture(Tokens(), unlabelled, tmp_path / "a.zarr", sites="embed")
    assert "label" not in tree.to_dataset().variables
    np.testing.assert_array_equal(tree["embed"]["activation"].shape, (3, 4, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input_ids": IDS, "label": LABELS[:2]}, r"input_ids \(3, 4\), label \(2,\)\. Each array must have one row"),
        ({"input_ids": IDS, "scale": np.array(2.0)}, r"scale \(\)\. Each array"),
        ({"input_ids": IDS[:0]}, "no samples"),
        ({"input_ids": IDS, "text": np.array(["a", "b", "c"])}, "text .* has dtype <U1. Inputs must be numbers"),
        ({"input_ids": IDS, "label": LABELS - 1}, "whole numbers from 0 up, or strings"),
        ({"input_ids": IDS, "labels": IDS}, r"labels .* has shape \(3, 4\)"),
        ({"input_ids": IDS, "label": LABELS, "class_names": np.array(["a", "b"])}, "2 class names.* label 2"),
        ({"input_ids": IDS, "label": np.array(["a", "b", "z"]), "class_names": np.array(["a", "b"])}, "label 'z'"),
        ({"input_ids": IDS, "x": IDS}, "has input_ids, x. It must have x_train and y_train"),
        ({"label": LABELS}, "has label. It must have x_train and y_train"),
    ],
)
def test_a_file_that_does_not_fit(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load.dataset(save(tmp_path, **arrays))


def test_such_a_file_has_no_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no test set"):
        load.dataset(save(tmp_path, input_ids=IDS), "test")
