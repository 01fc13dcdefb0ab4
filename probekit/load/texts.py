"""Texts as a torch data set: from CSV, TSV, JSON lines, Parquet and plain text files, read by a model's tokenizer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from probekit._tokens import TokenDict
from probekit.errors import DataError, near
from probekit.load.limits import Limit
from probekit.load.packages import extra
from probekit.load.tokenizer import Tokenizer

__all__ = ["ENDINGS", "TextDataset", "TextTable", "read_texts"]

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")
TEXT_COLUMNS = ("text", "sentence")
LABEL_COLUMNS = ("label", "labels")
_TARGET = "target"  # what a column of labels is called where these are real values
NO_LABEL = -1  # what Hugging Face's data sets say for a sample without a label


@dataclass(frozen=True)
class TextTable:
    """Texts, and what is known of each: a value of each of the other `columns`, by name.

    `names` are those of the classes, where the source says them, and `rows` the numbers of the texts in it.
    """

    name: str
    texts: Sequence[str]
    columns: Mapping[str, Any]
    text_column: str
    rows: Any = None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)


class TextDataset(Dataset[dict[str, Any]]):
    """A torch data set of texts as a model's tokenizer reads them: dicts of its inputs, such as ``input_ids``.

    A capture keeps each sample's ``text``, whether it was ``truncated``, and the other columns of the file; and of each
    token its ``token_id``, its ``token`` as text, and ``char_start`` and ``char_end``, its characters in the text.
    Samples have different lengths: give ``collate`` to a loader of your own, which pads them. `classes` and `targets`
    are as torchvision's, `texts` the texts in order; `sample_columns` has what a capture keeps of the samples.

    Labels are whole numbers from 0 up, which are the codes of the classes, or strings, whose classes are in
    alphabetical order. Floats aren't labels: they are kept as a column. If all are -1, there are none.

    Raises DataError for a label column that isn't there or holds something else, and for texts that are missing.
    """

    def __init__(
        self, table: TextTable, tokenizer: Tokenizer, label_column: str | None = None, limit: Limit | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self.label_column = _label_column(table, label_column)
        labels = None if self.label_column is None else _labels(table, self.label_column)
        others = {
            _TARGET if name in LABEL_COLUMNS else name: values
            for name, values in table.columns.items()
            if labels is None or name != self.label_column
        }
        rows = None if limit is None else limit.rows(len(table.texts), None if labels is None else labels[0])
        taken = np.arange(len(table.texts)) if rows is None else rows
        self.texts = [table.texts[row] for row in taken]
        self.classes: list[str] = [] if labels is None else labels[1]
        self.targets: list[int] | None = None if labels is None else labels[0][taken].tolist()
        self.sample_columns: dict[str, Any] = {"text": self.texts}
        self.sample_columns |= {name: np.asarray(values)[taken] for name, values in others.items()}
        if rows is not None or table.rows is not None:
            self.sample_columns["sample_id"] = taken if table.rows is None else np.asarray(table.rows)[taken]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = self._tokenizer(self.texts[index])
        if not found["input_ids"]:
            raise DataError(f"The text of sample {index} has no tokens: {self.texts[index]!r}. Remove it.")
        return found if self.targets is None else found | {"label": self.targets[index]}

    def collate(self, samples: Sequence[dict[str, Any]]) -> TokenDict:
        """A batch of samples, padded on the right to the longest."""
        batch = self._tokenizer.collate(samples)
        if self.targets is not None:
            batch["label"] = torch.tensor([each["label"] for each in samples])
        batch.columns = {"truncated": torch.tensor([each["truncated"] for each in samples])}
        return batch


def read_texts(path: Path, name: str, text_column: str | None = None) -> TextTable:
    """The texts in a file, and its other columns."""
    if not path.is_file():
        raise DataError(f"There is no file {str(path)!r}.")
    try:
        frame = _READERS[path.suffix.lower()](path)
    except DataError:
        raise
    except Exception as error:  # a reader that meets damaged bytes may raise anything
        raise DataError(f"{str(path)!r} can't be read: {type(error).__name__}: {error}") from error
    if not len(frame):
        raise DataError(f"{str(path)!r} has no rows.")
    return table_of(frame, name, text_column)


def table_of(frame: pd.DataFrame, name: str, text_column: str | None) -> TextTable:
    """The texts in a data frame, whose index has their numbers, and its other columns."""
    frame.columns = frame.columns.map(str)
    chosen = _text_column(frame, name, text_column)
    texts = frame[chosen].tolist()
    missing = next((row for row, text in zip(frame.index, texts, strict=True) if not isinstance(text, str)), None)
    if missing is not None:
        raise DataError(
            f"The column {chosen!r} of {name!r} has no text in row {missing}: {frame[chosen][missing]!r}. Remove the "
            "row, or name another column with text_column=.",
            arguments=("text_column",),
        )
    columns: dict[str, Any] = {}
    for column in frame.columns.drop(chosen):
        if _is_kept(frame[column], column, name):
            columns[column] = _plain(frame[column])
    rows = None if (frame.index == np.arange(len(frame))).all() else frame.index.to_numpy()
    return TextTable(name, texts, columns, chosen, rows)


def _read_csv(path: Path, separator: str = ",") -> pd.DataFrame:
    # As strings, so that "NA" and "007" stay what they are; columns of numbers become numbers afterwards.
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8")


def _read_tsv(path: Path) -> pd.DataFrame:
    return _read_csv(path, "\t")


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows: dict[int, Any] = {}
    for number, line in enumerate(
        path.read_text(encoding="utf-8").split("\n")
    ):  # a string may hold other ends of lines
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise DataError(f"Line {number + 1} of {str(path)!r} is no JSON object, but {line[:40]!r}.")
        rows[len(rows)] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _read_parquet(path: Path) -> pd.DataFrame:
    extra("pyarrow")
    return pd.read_parquet(path).reset_index(drop=True)


def _read_lines(path: Path) -> pd.DataFrame:
    lines = path.read_text(encoding="utf-8").split("\n")
    kept = {number: line.rstrip("\r") for number, line in enumerate(lines) if line.strip()}
    if empty := len(lines) - len(kept) - (lines[-1] == ""):
        warnings.warn(
            f"{empty} lines of {str(path)!r} are empty and were left out. A sample's id is the number of its line, "
            "from 0.",
            stacklevel=6,
        )
    return pd.DataFrame({"text": kept.values()}, index=list(kept))


_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_lines,
}


def _text_column(frame: pd.DataFrame, name: str, asked: str | None) -> str:
    columns = list(frame.columns)
    there = ", ".join(map(repr, columns))
    if asked is not None:
        if asked not in columns:
            raise DataError(
                f"{name!r} has no column {asked!r}; its columns are {there}.{near(asked, columns)}",
                arguments=("text_column",),
            )
        return asked
    found = next((column for column in TEXT_COLUMNS if column in columns), None)
    if found is None:
        raise DataError(
            f"Which column of {name!r} holds the texts? None is called {' or '.join(map(repr, TEXT_COLUMNS))}; its "
            f"columns are {there}. Say so with text_column=.",
            arguments=("text_column",),
        )
    return found


def _label_column(table: TextTable, asked: str | None) -> str | None:
    """The column of the labels; None where there is none."""
    if asked is None:
        return next((column for column in LABEL_COLUMNS if column in table.columns), None)
    if asked not in table.columns:
        there = ", ".join(map(repr, table.columns)) or "no others"
        raise DataError(
            f"{table.name!r} has no column {asked!r} beside {table.text_column!r}; it has {there}."
            f"{near(asked, table.columns)}",
            arguments=("label_column",),
        )
    return asked


def _labels(table: TextTable, column: str) -> tuple[np.ndarray[Any, Any], list[str]] | None:
    """The codes of the labels and the names of the classes; None where the column has no labels but real values."""
    values = np.asarray(table.columns[column])
    names = table.names.get(column)
    if values.dtype.kind == "f" or (values.dtype.kind in "iu" and (values == NO_LABEL).all()):
        return None
    if values.dtype.kind == "U":
        classes, codes = np.unique(values, return_inverse=True)
        return codes.astype(np.int64), classes.tolist()
    if values.dtype.kind == "b":
        return values.astype(np.int64), ["False", "True"]
    if values.dtype.kind not in "iu" or values.min() < 0:
        raise DataError(
            f"The labels of {table.name!r}, its column {column!r}, go down to {values.min()}. Give whole numbers from "
            "0 up or strings; or remove the rows without a label.",
            arguments=("label_column",),
        )
    return values.astype(np.int64), list(names or map(str, range(int(values.max()) + 1)))


def _is_kept(values: Any, column: str, name: str) -> bool:
    """Whether a store can keep a column; a warning names those that it can't."""
    plain = all(isinstance(value, str | int | float | bool | np.generic) or value is None for value in values)
    if plain and column.isidentifier():
        return True
    why = "holds what isn't a text or a number" if not plain else "has no name like a Python variable's"
    warnings.warn(f"The column {column!r} of {name!r} {why}, so it isn't kept.", stacklevel=7)
    return False


def _plain(values: Any) -> np.ndarray[Any, Any]:
    """A column as an array of int64, float64, bool or str; strings that all are numbers become numbers."""
    texts = all(isinstance(value, str) for value in values)
    if texts:
        numbers = pd.to_numeric(values, errors="coerce")
        # "007" is the name of something.
        if numbers.notna().all() and all(_is_number(value) for value in values):
            return np.asarray(numbers)
        return np.array(values.tolist(), dtype=str)
    if all(isinstance(value, bool | np.bool_) for value in values):
        return np.array(values.tolist(), dtype=bool)
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values], dtype=str)
    return np.array([np.nan if value is None else value for value in values])


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits == "0" or not digits.startswith("0") or digits.startswith("0.")
