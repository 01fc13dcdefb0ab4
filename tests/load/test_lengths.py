"""Texts of like length run together, and the store keeps the order of the data."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import probekit as pk
from probekit import load
from probekit._data.lengths import length_groups

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "eel", "sees", "the"]
COUNTS = [3, 120, 5, 60, 118, 4, 61, 2, 119, 3, 1, 90]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small classifier of two classes with its tokenizer."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), model_max_length=128)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=128, num_labels=2, **sizes)
    tokenizer.save_pretrained(tmp_path / "bert")
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    draw = np.random.default_rng(0)
    found = [" ".join(draw.choice(WORDS[4:], count)) for count in COUNTS]
    pd.DataFrame({"text": found, "label": np.arange(len(found)) % 2}).to_csv(tmp_path / "texts.csv", index=False)
    return found


class Sizes:
    """The (sample, position) of every pass of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[tuple[int, int]] = []
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: nn.Module, args: Any, kwargs: dict[str, Tensor]) -> None:
        rows, positions = kwargs["input_ids"].shape
        self.seen.append((rows, positions))

    def since_planned(self, samples: int) -> list[tuple[int, int]]:
        """Those of the capture: the last ones, which together ran over the samples."""
        for first in range(len(self.seen)):
            if sum(rows for rows, _ in self.seen[first:]) == samples:
                return self.seen[first:]
        raise AssertionError(self.seen)


def loaded(folder: Path) -> tuple[Any, Any]:
    return load.model(f"hf:{folder}"), load.preprocess(f"hf:{folder}")


def by_hand(folder: Path, texts: list[str], layer: int) -> tuple[list[np.ndarray[Any, Any]], list[int]]:
    """The output of a layer for each text alone, (token, node), and what is predicted."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        found = [model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True) for text in texts]
    return [each.hidden_states[layer + 1][0].numpy() for each in found], [int(each.logits.argmax()) for each in found]


def captured(folder: Path, tmp_path: Path, name: str, **options: Any) -> tuple[Path, list[tuple[int, int]]]:
    model, preprocess = loaded(folder)
    sizes = Sizes(model)
    data = load.dataset(str(tmp_path / "texts.csv"), preprocess=preprocess)
    pk.capture(model, data, tmp_path / name, **options)
    return tmp_path / name, sizes.since_planned(len(COUNTS))


@pytest.mark.parametrize("batch_size", [12, 7])
def test_tokens_means_and_predictions_stand_in_the_order_of_the_data(
    folder: Path, texts: list[str], tmp_path: Path, batch_size: int
) -> None:
    layer = "bert.encoder.layer.1"
    options: dict[str, Any] = {"sites": [layer, "classifier"], "batch_size": batch_size, "predictions": True}
    tokens, passes = captured(folder, tmp_path, "tokens", reduce={layer: "tokens"}, **options)
    means, _ = captured(folder, tmp_path, "means", reduce={layer: "mean"}, **options)
    expected, predicted = by_hand(folder, texts, 1)
    assert len(passes) > -(-len(COUNTS) // batch_size)
    tree = pk.open(tokens)
    assert tree.attrs["passes"] == "texts of like length together"
    np.testing.assert_allclose(tree[layer]["activation"], np.concatenate(expected), atol=1e-5)
    np.testing.assert_array_equal(
        tree[layer]["sample_id"], np.repeat(np.arange(len(COUNTS)), [len(each) for each in expected])
    )
    np.testing.assert_allclose(pk.open(means)[layer]["activation"], [each.mean(0) for each in expected], atol=1e-5)
    assert tree["prediction"].values.tolist() == predicted
    assert tree["text"].values.tolist() == texts
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tree[layer]["token_id"].values.tolist() == [each for text in texts for each in tokenizer(text).input_ids]


def test_fewer_positions_run_than_one_padded_pass_has(folder: Path, texts: list[str], tmp_path: Path) -> None:
    _, passes = captured(folder, tmp_path, "acts", sites="bert.encoder.layer.1", reduce="tokens")
    run = sum(rows * positions for rows, positions in passes)
    real = sum(COUNTS) + 2 * len(COUNTS)
    assert real <= run < 1.15 * real
    assert len(COUNTS) * max(COUNTS) > 2 * real


def test_sites_that_keep_positions_run_in_one_pass(folder: Path, texts: list[str], tmp_path: Path) -> None:
    store, passes = captured(folder, tmp_path, "acts", sites=["bert.encoder.layer.1", "classifier"])
    assert passes == [(len(COUNTS), max(COUNTS) + 2)]
    assert "passes" not in pk.open(store).attrs


def test_a_capture_that_was_stopped_resumes_to_the_same(folder: Path, texts: list[str], tmp_path: Path) -> None:
    options: dict[str, Any] = {"sites": "bert.encoder.layer.1", "reduce": "tokens", "batch_size": 6}
    whole, _ = captured(folder, tmp_path, "whole", **options)
    model, preprocess = loaded(folder)
    data = load.dataset(str(tmp_path / "texts.csv"), preprocess=preprocess)

    def stopping(items: Any, *_: Any) -> Any:
        for number, item in enumerate(items):
            if number == 1:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        pk.capture(model, data, tmp_path / "parted", progress=stopping, **options)
    assert not pk.info(tmp_path / "parted").complete
    pk.capture(model, data, tmp_path / "parted", resume=True, **options)
    one, other = (pk.open(each)["bert.encoder.layer.1"].to_dataset().load() for each in (whole, tmp_path / "parted"))
    assert one.identical(other)


def test_live_is_as_stored(folder: Path, texts: list[str], tmp_path: Path) -> None:
    site = "bert.encoder.layer.1"
    store, _ = captured(folder, tmp_path, "acts", sites=site, reduce="tokens")
    model, preprocess = loaded(folder)
    sizes = Sizes(model)
    data = load.dataset(str(tmp_path / "texts.csv"), preprocess=preprocess)
    live = pk.measure_live(model, data, ["mean", "count"], sites=site, reduce="tokens")
    assert len(sizes.since_planned(len(COUNTS))) > 1
    stored = pk.measure(store, ["mean", "count"])
    for variable in ("mean", "count"):
        np.testing.assert_allclose(live[site][variable], stored[site][variable], atol=1e-6)


@given(st.lists(st.integers(1, 2048), min_size=1, max_size=80))
def test_groups_hold_every_sample_once_and_waste_little(lengths: list[int]) -> None:
    counts = np.array(lengths)
    groups = length_groups(counts)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(counts)))
    longest = [int(counts[group].max()) for group in groups]
    assert all(after <= 0.75 * before for before, after in pairwise(longest))
    for group, most in zip(groups, longest, strict=True):
        padding = most * len(group) - counts[group].sum()
        # What is shorter than three quarters stays only where a pass of its own would save less than it costs.
        assert padding <= 0.25 * most * len(group) + 256
