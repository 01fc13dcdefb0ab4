"""Data sets of the library `datasets`: ``hfdata:FOLDER``, ``hfdata:NAME:split``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from probekit._files import local_path
from probekit.errors import DataError, near
from probekit.load.hub import offline
from probekit.load.images import labelled, transformed
from probekit.load.limits import Limit
from probekit.load.packages import extra
from probekit.load.texts import NO_LABEL, TextTable, table_of
from probekit.load.transforms import ImageTransform

__all__ = ["PREFIX", "ImageRows", "hf_data", "image_column", "text_table"]

PREFIX = "hfdata:"


def hf_data(name: str, split: str) -> tuple[Any, str]:
    """The data set of a name such as ``hfdata:imdb:test``, and its split: `split` where the name says none.

    Raises DataError if it isn't there, has no such split, or can't be read.
    """
    datasets = extra("datasets")
    source, colon, named = name.removeprefix(PREFIX).partition(":")
    wanted = named if colon else split
    folder = local_path(source, "name")
    try:
        with offline() if folder.exists() else nullcontext():
            found = _read(datasets, folder, source)
    except Exception as error:  # datasets raises many types
        raise DataError(
            f"{name!r} can't be loaded by datasets: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
        ) from error
    if not isinstance(found, Mapping):
        if colon:
            raise DataError(f"{PREFIX + source!r} has no splits, so it has no {named!r}. Leave ':{named}' out.")
        return found, "all"
    if wanted not in found:
        raise DataError(
            f"{PREFIX + source!r} has no split {wanted!r}; it has {', '.join(map(repr, found))}. Name one: "
            f"'{PREFIX}{source}:{next(iter(found))}'.{near(wanted, list(found))}",
            arguments=("split",),
        )
    return found[wanted], wanted


def _read(datasets: Any, folder: Path, source: str) -> Any:
    saved = ("state.json", "dataset_dict.json")  # what save_to_disk writes
    if folder.is_dir() and any((folder / file).is_file() for file in saved):
        return datasets.load_from_disk(str(folder))
    return datasets.load_dataset(str(folder) if folder.exists() else source)


def image_column(data: Any) -> str | None:
    """The column of a data set that holds images, if it has one."""
    return next((name for name, kind in data.features.items() if type(kind).__name__ == "Image"), None)


def text_table(data: Any, name: str, text_column: str | None) -> TextTable:
    """The texts of a data set, and its other columns."""
    table = table_of(data.with_format(None).to_pandas(), name, text_column)
    names = {column: kind.names for column, kind in data.features.items() if getattr(kind, "names", None)}
    return TextTable(table.name, table.texts, table.columns, table.text_column, table.rows, names)


class ImageRows(Dataset[Any]):
    """The images of a data set of the library `datasets`, through a transform, each with its label.

    `classes` are the names of its ClassLabel; a label of -1 is none, where all are.
    """

    def __init__(
        self, data: Any, name: str, transform: ImageTransform, label_column: str | None, limit: Limit | None
    ) -> None:
        self._data, self._name, self._transform = data, name, transform
        self._column = image_column(data)
        label = label_column or next((each for each in ("label", "labels") if each in data.features), None)
        if label is not None and label not in data.features:
            raise DataError(
                f"{name!r} has no column {label!r}; its columns are {', '.join(map(repr, data.features))}.",
                arguments=("label_column",),
            )
        labels = None if label is None else np.asarray(data.with_format(None)[label][:])
        if labels is not None and (labels == NO_LABEL).all():
            labels = None
        rows = None if limit is None else limit.rows(len(data), labels)
        self._rows = np.arange(len(data)) if rows is None else rows
        kind = data.features.get(label)
        count = 0 if labels is None else int(labels.max()) + 1
        self.classes: list[str] = [] if labels is None else list(getattr(kind, "names", None) or map(str, range(count)))
        self.targets: list[int] | None = None if labels is None else labels[self._rows].tolist()
        self.sample_columns: dict[str, Any] = {} if rows is None else {"sample_id": rows}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        image = self._data.with_format(None)[int(self._rows[index])][self._column]
        x = transformed(image.convert("RGB"), self._transform, f"sample {index} of {self._name!r}")
        return x if self.targets is None else labelled(x, self.targets[index])
