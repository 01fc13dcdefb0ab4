"""Texts go in through a model's tokenizer, and their tokens come back with the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import probekit as pk
from probekit import load
from probekit.errors import DataError

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "eel", "sees", "the", "##s", "."]
TEXTS = ["the cat sees a dog.", "a cat", "the eels see", "dog", "the dog sees the cat, the eel and a dog."]
LABELS = ["yes", "no", "no", "yes", "no"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small BERT with its tokenizer, as save_pretrained leaves them."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizerFast(vocab=str(vocab), model_max_length=9)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=9, **sizes))
    tokenizer.save_pretrained(tmp_path / "bert")
    model.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    rows = "\n".join(f'"{text}",{label},{stars}' for text, label, stars in zip(TEXTS, LABELS, range(1, 6), strict=True))
    (tmp_path / "reviews.csv").write_text(f"text,label,stars\n{rows}\n")
    return tmp_path / "reviews.csv"


def by_hand(folder: Path, layer: int) -> list[np.ndarray[Any, Any]]:
    """The output of a layer for each text alone, (token, node)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return [
            model(
                **tokenizer(text, return_tensors="pt", truncation=True, max_length=9), output_hidden_states=True
            ).hidden_states[layer + 1][0].numpy()
            for text in TEXTS
        ]  # fmt: skip


def test_the_tokens_of_texts_are_kept_with_their_place(folder: Path, reviews: Path, call: Any) -> None:
    code, _, err = call(
        "capture", f"hf:{folder}", str(reviews), "acts.zarr", "-s", "encoder.layer.1", "--reduce", "tokens",
        "--batch-size", 2,
    )  # fmt: skip
    assert code == 0
    assert "cut at 9 tokens" in err
    assert "Labels: label." in err
    tree = pk.open("acts.zarr")
    site, expected = tree["encoder.layer.1"].to_dataset(), by_hand(folder, 1)
    np.testing.assert_allclose(site["activation"].values, np.concatenate(expected), atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text, truncation=True, max_length=9)["input_ids"] for text in TEXTS]
    assert site["token_id"].values.tolist() == [each for row in ids for each in row]
    assert site["position"].values.tolist() == [position for row in ids for position in range(len(row))]
    texts = tree["text"].values
    assert texts.tolist() == TEXTS
    spans = zip(*(site[name].values for name in ("sample_id", "char_start", "char_end", "token")), strict=True)
    for sample, start, end, token in spans:
        assert token == (texts[sample][start:end] if end > start else token)
        assert end > start or token in ("[CLS]", "[SEP]")
    assert tree["truncated"].values.tolist() == [False] * 4 + [True]
    assert tree["stars"].values.tolist() == [1, 2, 3, 4, 5]
    assert tree["class_name"].values.tolist() == ["no", "yes"]
    assert "text" not in site.variables  # once a sample
    assert pk.verify("acts.zarr")


def test_top_tokens_come_back_in_their_sentences(folder: Path, reviews: Path, tmp_path: Path) -> None:
    model, data = load.model(f"hf:{folder}"), load.dataset(str(reviews), preprocess=load.preprocess(f"hf:{folder}"))
    tree = pk.capture(model, data, tmp_path / "a.zarr", sites="encoder.layer.1", reduce="tokens", batch_size=3)
    site = tree["encoder.layer.1"].to_dataset().load()
    top = pk.measure(tmp_path / "a.zarr", pk.metrics.TopSamples(k=2), by=None)["encoder.layer.1"]
    rows = top["top_samples"].isel(node=3).values.ravel().astype(int)
    values = site["activation"].values[:, 3]
    assert sorted(rows) == sorted(np.argsort(values)[-2:])
    best = site.isel(row=rows[0])
    text = str(tree["text"].values[int(best["sample_id"])])
    assert int(best["char_end"]) <= len(text)


def test_a_resumed_capture_of_texts_is_the_same(folder: Path, reviews: Path, tmp_path: Path) -> None:
    model = load.model(f"hf:{folder}")
    data = load.dataset(str(reviews), preprocess=load.preprocess(f"hf:{folder}"))
    options = {"sites": "encoder.layer.*", "reduce": "tokens", "batch_size": 1, "memory": 4000}
    whole = pk.capture(model, data, tmp_path / "whole.zarr", **options)

    class Fails(load.TextDataset):
        def __init__(self) -> None:
            vars(self).update(vars(data))

        def __getitem__(self, index: int) -> dict[str, Any]:
            if index == 3:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        pk.capture(model, Fails(), tmp_path / "a.zarr", **options)
    again = pk.capture(model, data, tmp_path / "a.zarr", resume=True, **options)
    for name in whole.children:
        xr.testing.assert_identical(again[name].to_dataset().load(), whole[name].to_dataset().load())


def table(folder: Path, ending: str) -> Path:
    """The same reviews in another kind of file."""
    rows = [{"text": t, "label": y, "stars": n} for t, y, n in zip(TEXTS, LABELS, range(1, 6), strict=True)]
    path = folder / f"reviews{ending}"
    if ending == ".tsv":
        path.write_text(
            "\n".join("\t".join(map(str, row)) for row in [["text", "label", "stars"], *(r.values() for r in rows)])
        )
    elif ending == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        pytest.importorskip("pyarrow")
        import pandas as pd

        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("ending", [".tsv", ".jsonl", ".parquet"])
def test_other_files_hold_the_same(folder: Path, reviews: Path, tmp_path: Path, ending: str) -> None:
    preprocess = load.preprocess(f"hf:{folder}")
    one, other = (load.dataset(str(p), preprocess=preprocess) for p in (reviews, table(tmp_path, ending)))
    assert one.texts == other.texts == TEXTS
    assert one.targets == other.targets == [1, 0, 0, 1, 0]
    assert one.sample_columns["stars"].tolist() == other.sample_columns["stars"].tolist()
    assert one[4] == other[4]


def test_a_string_of_json_may_hold_other_ends_of_lines(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text(json.dumps({"text": "a\u2028cat\x85dog"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert load.dataset(str(file), preprocess=load.preprocess(f"hf:{folder}")).texts == ["a\u2028cat\x85dog"]


def test_a_store_has_the_call_that_makes_it_again(folder: Path, reviews: Path, tmp_path: Path) -> None:
    def captured(**more: Any) -> Any:
        model = load.model(f"hf:{folder}", seed=3)
        data = load.dataset(str(reviews), preprocess=load.preprocess(f"hf:{folder}"), limit=4, seed=2)
        return pk.capture(model, data, tmp_path / "a.zarr", sites="embeddings", reduce="mean", **more)

    first = captured().load()
    command, again = pk.info(tmp_path / "a.zarr").attrs["command"], {}
    exec(command.replace("a.zarr", "b.zarr"), {"probekit": pk})
    again = pk.open(tmp_path / "b.zarr")
    for name in ("sample_id", "text"):
        assert again[name].values.tolist() == first[name].values.tolist()
    np.testing.assert_array_equal(again["embeddings"]["activation"], first["embeddings"]["activation"])
    captured(append="samples")
    attrs = pk.info(tmp_path / "a.zarr").attrs
    assert attrs["command"].startswith(f"{command}; from sample 4 on: probekit.capture(")
    assert attrs["data"] == f"{reviews}; from sample 4 on: {reviews}"


def test_worker_processes_give_the_same(folder: Path, reviews: Path, tmp_path: Path) -> None:
    model, data = load.model(f"hf:{folder}"), load.dataset(str(reviews), preprocess=load.preprocess(f"hf:{folder}"))
    options = {"sites": "encoder.layer.0", "reduce": "tokens", "batch_size": 2}
    one, other = (pk.capture(model, data, tmp_path / f"{n}.zarr", workers=n, **options) for n in (0, 2))
    xr.testing.assert_identical(
        one["encoder.layer.0"].to_dataset().load(), other["encoder.layer.0"].to_dataset().load()
    )
    with pytest.raises(DataError, match="has its own, num_workers"):
        pk.capture(model, iter([]), tmp_path / "c.zarr", workers=2)


def test_what_would_be_ignored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'digits' holds no texts in columns, so max_length says nothing"):
        load.dataset("digits", max_length=3)
    np.savez(tmp_path / "ids.npz", input_ids=np.ones((2, 3), int))
    with pytest.raises(DataError, match="to which no transform can be applied"):
        load.dataset(str(tmp_path / "ids.npz"), preprocess=load.image_transform(resize=8))


@pytest.mark.parametrize("option", [("--resize", 8), ("--normalize", "mnist"), ("--transform", "a.py:make")])
def test_a_tokenizer_and_a_transform_of_images_exclude_each_other(
    folder: Path, reviews: Path, call: Any, option: Any
) -> None:
    code, _, err = call("capture", f"hf:{folder}", str(reviews), "a.zarr", "--tokenizer", f"hf:{folder}", *option)
    assert code == 2
    assert f"It is for texts, and {option[0]} for images" in " ".join(err.replace("│", " ").split())


def test_lines_are_samples(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a cat\n\nthe dog\n")
    with pytest.warns(UserWarning, match="1 lines of .* are empty"):
        data = load.dataset(str(tmp_path / "lines.txt"), preprocess=load.preprocess(f"hf:{folder}"))
    assert (data.texts, data.targets) == (["a cat", "the dog"], None)
    tree = pk.capture(load.model(f"hf:{folder}"), data, tmp_path / "a.zarr", sites="embeddings", reduce="mean")
    assert tree["sample_id"].values.tolist() == [0, 2]  # the numbers of the lines


def test_texts_and_numbers_stay_what_they_are(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd.csv"
    file.write_text("text,code,score,label\nNA,007,1.5,3\nnull,008,2,0\n")
    data = load.dataset(str(file), preprocess=load.preprocess(f"hf:{folder}"))
    assert data.texts == ["NA", "null"]
    assert data.sample_columns["code"].tolist() == ["007", "008"]
    assert data.sample_columns["score"].tolist() == [1.5, 2.0]
    assert (data.targets, data.classes) == ([3, 0], ["0", "1", "2", "3"])


def test_real_targets_are_a_column_that_ranges_group(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "label": 0.5 * n}) for n, text in enumerate(TEXTS)))
    data = load.dataset(str(file), preprocess=load.preprocess(f"hf:{folder}"))
    assert data.targets is None
    tree = pk.capture(load.model(f"hf:{folder}"), data, tmp_path / "a.zarr", sites="pooler.dense")
    assert tree["target"].values.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    values = tree["pooler.dense"]["activation"].values
    found = pk.measure(tmp_path / "a.zarr", "mean", by="target:2")["pooler.dense"]["mean"]
    assert found["label"].values.tolist() == ["0 to 1", "1 to 2"]
    np.testing.assert_allclose(found, [values[:2].mean(0), values[2:].mean(0)], rtol=1e-5)
    with pytest.raises(DataError, match="Ranges of numbers are asked for as 'target:5'"):
        pk.measure(tmp_path / "a.zarr", "mean", by="target")
    with pytest.raises(DataError, match="5 samples are too few for 9 ranges of 'target'"):
        pk.measure(tmp_path / "a.zarr", "mean", by="target:9")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("review,label\ngood,1\n", {}, "Which column .* holds the texts.*'review', 'label'"),
        ("text,label\ngood,1\n", {"text_column": "txt"}, "no column 'txt'.*Near: 'text'"),
        ("text,label\ngood,1\n", {"label_column": "lable"}, "no column 'lable'.*Near: 'label'"),
        ("text,label\ngood,-1\nbad,0\n", {}, "go down to -1"),
        ("text,label\n", {}, "has no rows"),
        ('text,label\n"good,1\n', {}, "can't be read|has no rows"),
        ("text,label\ngood,1\n", {"max_length": 99}, "max_length is 99.*at most the 9"),
        ("text,label\ngood,1\n", {"split": "test"}, "has no test set"),
    ],
)
def test_files_that_do_not_fit(
    folder: Path, tmp_path: Path, content: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        load.dataset(str(tmp_path / "t.csv"), preprocess=load.preprocess(f"hf:{folder}"), **options)


def test_texts_need_a_tokenizer(reviews: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="need the model's tokenizer"):
        load.dataset(str(reviews))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(DataError, match="comes with no tokenizer, for texts"):
        load.dataset(str(reviews), preprocess=load.preprocess(f"hf:{folder}"))


def test_a_share_of_each_class_is_taken(folder: Path, tmp_path: Path) -> None:
    rows = "\n".join(f"a cat {n},{'rare' if n % 10 == 0 else 'usual'}" for n in range(200))
    (tmp_path / "many.csv").write_text(f"text,label\n{rows}\n")
    data = load.dataset(str(tmp_path / "many.csv"), preprocess=load.preprocess(f"hf:{folder}"), limit=20, seed=4)
    assert np.bincount(data.targets).tolist() == [2, 18]
    assert [f"a cat {row}" for row in data.sample_columns["sample_id"]] == data.texts


def test_data_sets_of_hugging_face(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    made = datasets.Dataset.from_dict({"sentence": TEXTS, "label": [1, 0, 0, 1, 0]}, features=features)
    unlabelled = datasets.Dataset.from_dict({"sentence": TEXTS, "label": [-1] * 5}, features=features)
    datasets.DatasetDict({"train": made, "test": unlabelled}).save_to_disk(str(tmp_path / "hf"))
    preprocess = load.preprocess(f"hf:{folder}")
    data = load.dataset(f"hfdata:{tmp_path / 'hf'}", preprocess=preprocess)
    assert (data.texts, data.targets, data.classes) == (TEXTS, [1, 0, 0, 1, 0], ["bad", "good"])
    test = load.dataset(f"hfdata:{tmp_path / 'hf'}:test", preprocess=preprocess)
    assert test.targets is None
    with pytest.raises(DataError, match="no split 'dev'; it has 'train', 'test'"):
        load.dataset(f"hfdata:{tmp_path / 'hf'}:dev", preprocess=preprocess)


def test_images_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pixels = [np.full((6, 7, 3), 40 * n, np.uint8) for n in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    made = datasets.Dataset.from_dict({"image": pixels, "label": [0, 1, 1, 0]}, features=features)
    made.save_to_disk(str(tmp_path / "hf"))
    data = load.dataset(f"hfdata:{tmp_path / 'hf'}", preprocess=load.image_transform())
    assert (data.targets, data.classes, len(data)) == ([0, 1, 1, 0], ["a", "b"], 4)
    x, y = data[2]
    assert (tuple(x.shape), float(x.max()), y) == ((3, 6, 7), pytest.approx(80 / 255), 1)
