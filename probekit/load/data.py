"""Data sets by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from probekit._files import local_path
from probekit._provenance import call_of, remember
from probekit.errors import DataError, check_kind
from probekit.load.arrays import ArrayDataset, Split, arrays, check_split, data_folder, from_npz, read_npz
from probekit.load.factories import is_factory, made
from probekit.load.hf_data import PREFIX, ImageRows, hf_data, image_column, text_table
from probekit.load.images import FOLDER, ImageFolder, default_transform
from probekit.load.keywords import KeywordDataset, holds_keywords
from probekit.load.limits import Limit, LimitOrder
from probekit.load.preprocess import Preprocess, texts_of, transform_of
from probekit.load.texts import ENDINGS, TextDataset, TextTable, read_texts
from probekit.load.torchvision_data import TORCHVISION, TorchvisionRows

__all__ = ["dataset"]


def dataset(
    name: str,
    split: Split = "train",
    *,
    limit: int | None = None,
    limit_order: LimitOrder = "stratified",
    seed: int = 0,
    data_dir: Path | None = None,
    preprocess: Any = None,
    text_column: str | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
) -> Any:
    """The torch data set that a name stands for: (x, label) in order, x as the model takes it.

    `name` is one of

    - ``digits``, ``mnist``, ``cifar10`` or a ``file.npz``, as ``load.arrays`` takes them: x is float32, uint8 images
      and digits go from 0 to 1, and other integers become int64; with `preprocess`, images go through it instead;
    - a ``file.npz`` of keyword inputs, which gives a ``KeywordDataset`` of dicts. The file has arrays with the names of
      the arguments of the model's forward, such as ``input_ids``, ``attention_mask`` or ``pixel_values``, with a row
      for each sample; ``label`` (or ``labels``), whole numbers from 0 up or strings; and optionally ``sample_id`` and
      ``class_names``. Integers become int64 and floats float32; such a file has no split;
    - ``imagefolder:DIR``, a folder with one folder of images per class, which gives an ``ImageFolder``;
    - ``torchvision:CIFAR100``, a data set of torchvision in `data_dir`; nothing is downloaded;
    - ``texts.csv``, ``.tsv``, ``.jsonl``, ``.parquet`` or, with a sample a line, ``.txt``: a ``TextDataset``, read by
      the tokenizer that `preprocess` gives. The texts are in `text_column`, by default ``text`` or ``sentence``; the
      labels in `label_column`, by default ``label`` or ``labels``. Other columns are kept;
    - ``hfdata:NAME_OR_FOLDER`` or ``hfdata:NAME:split``, of the library `datasets`: images where it has a column of
      them, else texts;
    - ``file.py:factory`` or ``package.module:factory``: the data set or loader that your own code returns, as it is.

    Args:
        name: which data.
        split: ``"train"`` (everything, if the data have no split), ``"test"`` or ``"all"`` (train, then test).
        limit: take so many samples only: each class's share, drawn under `seed`; their ids are their numbers in the
            whole. With `limit_order` ``"first"``, the first ones.
        data_dir: the folder of ``mnist``, ``cifar10`` and torchvision's data sets, by default ``~/.cache/probekit``.
        preprocess: what belongs before the model: what ``load.preprocess`` returns, a callable that makes a tensor of
            a Pillow image, such as ``load.image_transform(resize=32)``, or a tokenizer of transformers'. By default
            images of a folder are resized to 224 and go from 0 to 1. A store tells what was done.
        text_column, label_column: the columns of a file of texts.
        max_length: cut texts after so many tokens; by default after as many as the tokenizer says the model takes.

    Raises:
        DataError: the name doesn't stand for a data set, files are missing, labels and samples don't match, or there is
            no such split.

    Example:
        >>> digits = dataset("digits", limit=100)
        >>> len(digits), digits[0][0].shape, digits.classes[:3]
        (100, torch.Size([1, 8, 8]), ['0', '1', '2'])
    """
    call = call_of(dataset, locals())
    check_kind("name", name, str, "the name of a data set")
    check_split(name, split, has_test=True)
    _check_options(name, preprocess, text_column, label_column, max_length)
    chosen = Limit(limit, limit_order, seed)
    facts: dict[str, Any] | None = None  # nothing is known of what the user's own code gives
    if name.startswith(FOLDER):
        check_split(name, split, has_test=False)
        transform = transform_of(preprocess, default_transform())
        found: Any = ImageFolder(local_path(name.removeprefix(FOLDER), "name"), chosen, transform)
        facts = transform.facts
    elif name.startswith(PREFIX):
        found, facts = _of_hugging_face(name, split, preprocess, text_column, label_column, max_length, chosen)
    elif name.startswith(TORCHVISION):
        transform = transform_of(preprocess, default_transform())
        found = TorchvisionRows(name, split, data_folder(data_dir), transform, chosen)
        facts = {"data_split": split, **transform.facts}
    elif name.endswith(ENDINGS):
        check_split(name, split, has_test=False)
        table = read_texts(local_path(name, "name"), name, text_column)
        found, facts = _texts(table, preprocess, label_column, max_length, chosen)
    elif is_factory(name):
        found = _of_factory(name, limit, preprocess)
    else:
        found, facts = _of_arrays(name, split, preprocess, data_dir, chosen)
    own = {} if facts is None else {"data_limit": chosen.words, **facts}
    remember(found, call, {"data": name, **own})
    return found


def _check_options(
    name: str, preprocess: Any, text_column: str | None, label_column: str | None, max_length: int | None
) -> None:
    """Raise DataError for what is said of texts where the data hold none, and would be ignored."""
    given = {"text_column": text_column, "label_column": label_column, "max_length": max_length}
    ignored = [key for key, value in given.items() if value is not None]
    if ignored and not name.endswith(ENDINGS) and not name.startswith(PREFIX):
        raise DataError(f"{name!r} holds no texts in columns, so {ignored[0]} says nothing of it.", arguments=ignored)


def _of_hugging_face(
    name: str,
    split: str,
    preprocess: Any,
    text_column: str | None,
    label_column: str | None,
    max_length: int | None,
    limit: Limit,
) -> tuple[Any, dict[str, Any]]:
    data, split = hf_data(name, split)
    if image_column(data) is None or text_column is not None:
        found, facts = _texts(text_table(data, name, text_column), preprocess, label_column, max_length, limit)
        return found, {"data_split": split, **facts}
    transform = transform_of(preprocess, default_transform())
    return ImageRows(data, name, transform, label_column, limit), {"data_split": split, **transform.facts}


def _texts(
    table: TextTable, preprocess: Any, label_column: str | None, max_length: int | None, limit: Limit
) -> tuple[TextDataset, dict[str, Any]]:
    tokenizer = texts_of(preprocess).limited(max_length)
    found = TextDataset(table, tokenizer, label_column, limit)
    labels = found.label_column if found.targets is not None else "no labels"
    return found, {**tokenizer.facts, "text_column": table.text_column, "label_column": labels}


def _of_factory(name: str, limit: int | None, preprocess: Any) -> Any:
    found = made(name, (Dataset, IterableDataset, DataLoader), DataError)
    if limit is not None:
        raise DataError(
            f"{name!r} gives its own samples, so limit={limit} can't be applied. Take fewer in that function.",
            arguments=("limit",),
        )
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        raise DataError(f"{name!r} gives its own samples, so no transform can be applied. Apply it in that function.")
    if not isinstance(found, Dataset | IterableDataset | DataLoader) and not hasattr(found, "__getitem__"):
        raise DataError(
            f"{name!r} returned a {type(found).__name__}. It has to return a data set, a DataLoader, or tensors."
        )
    return found


def _of_arrays(
    name: str, split: Split, preprocess: Any, data_dir: Path | None, limit: Limit
) -> tuple[Any, dict[str, Any]]:
    if name.endswith(".npz"):
        path = local_path(name, "name")
        content = read_npz(path)
        if holds_keywords(content):
            check_split(name, split, has_test=False)
            if preprocess is not None and not isinstance(preprocess, Preprocess):
                raise DataError(f"{name!r} holds the model's inputs by name, to which no transform can be applied.")
            return KeywordDataset(name, content, limit), {}
        data = from_npz(content, path, name)
    else:
        data = arrays(name, data_dir)
    images = preprocess is not None and (data.white > 1 or not isinstance(preprocess, Preprocess))
    transform = transform_of(preprocess, default_transform()) if images else None
    facts = {"preprocessing": _scaling(data.white)} if transform is None else transform.facts
    has_splits = {} if data.x_test is None else {"data_split": split}
    return ArrayDataset(data, split, limit, transform), {**has_splits, **facts}


def _scaling(white: float) -> str:
    return "none" if white == 1 else "values from 0 to 1; not normalised"
