"""What is shuffled and drawn: samples, or groups of rows that belong together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probekit._measure.grouping import Observations
from probekit._measure.site_source import Source
from probekit._store.sample_columns import SampleColumns
from probekit.errors import DataError
from probekit.metrics.block import Array, Codes

__all__ = ["ROW", "SAMPLE_ID", "Units"]

ROW = "row"  # for `together`: each row by itself
SAMPLE_ID = "sample_id"


@dataclass(frozen=True)
class Units:
    """The units of a site's observations.

    `of` (observation) is the number of the unit of each, in the order of the units' ids; `strata` (unit) has the code
    of the units among which labels are exchanged and units are drawn. `labels` (unit) are their classes, None where a
    unit has observations of several. `of_class` (class) counts the units that have observations of each class.
    """

    of: Codes
    strata: Codes
    labels: Codes | None
    of_class: Codes
    called: str

    @classmethod
    def find(
        cls, source: Source, columns: SampleColumns, rows: Observations, within: str | None, together: str | None
    ) -> Units:
        """The units of the observations that are measured.

        Raises DataError where a column isn't there, or the rows of a unit differ in `within`.
        """
        called, ids = _ids(source, columns, rows, together)
        of = np.unique(ids, return_inverse=True)[1].ravel().astype(np.int64)
        number = int(of.max()) + 1
        strata = np.zeros(number, np.int64)
        if within is not None:
            codes = np.unique(_values(columns, within, "within")[rows.numbers], return_inverse=True)[1].ravel()
            found = _of_each(of, codes.astype(np.int64), number)
            if found is None:
                raise DataError(
                    f"Site {source.name!r}: rows of one {called} differ in {within!r}, so it can't be shuffled within "
                    f"it as a whole. Give together='row' to take each row by itself, or another column within=.",
                    arguments=("within", "together"),
                )
            strata = found
        classes = rows.labels.number
        of_class = np.bincount(np.unique(of * classes + rows.codes) % classes, minlength=classes)
        return cls(of, strata, _of_each(of, rows.codes, number), of_class, called)

    @property
    def number(self) -> int:
        return len(self.strata)

    @property
    def several(self) -> bool:
        """Whether any unit has several observations."""
        return self.number < len(self.of)

    @property
    def shuffle(self) -> bool:
        """Whether a shuffle of the units' labels means anything."""
        return self.labels is not None and self.of_class.max() > 1 and self._differ(self.labels)

    def of_labels(self, site: str) -> Codes:
        """The class of each unit; DataError where one has several, or where no shuffle of them means anything."""
        if self.labels is None:
            raise DataError(
                f"Site {site!r}: rows of one {self.called} are in different groups, so a {self.called} has no label "
                "that could be shuffled as a whole. Give together='row' to shuffle each row by itself; with "
                "within= too, rows change places within the groups of a column.",
                arguments=("together", "within"),
            )
        self._check_change(self.labels, site, "are of one class, so no shuffle of the labels", "by")
        if self.of_class.max() == 1:
            raise DataError(
                f"Site {site!r}: each class is a single {self.called}, so a shuffle of the labels gives the classes "
                "other names, no more. Give another column together=, or group by another (by=).",
                arguments=("together", "by"),
            )
        return self.labels

    def of_target(self, target: Array, site: str) -> Array:
        """The target of each unit, by that of each observation.

        Raises DataError where a unit has several, or where no shuffle of them changes anything.
        """
        found = _of_each(self.of, target, self.number)
        if found is None:
            raise DataError(
                f"Site {site!r}: rows of one {self.called} have different values of the target, so it can't be "
                "shuffled as a whole. Give together='row' to shuffle each row by itself; with within= too, rows change "
                "places within the groups of a column.",
                arguments=("target", "together"),
            )
        self._check_change(found, site, "have one value of the target, so no shuffle of it", "target")
        return found

    def _check_change(self, values: Array, site: str, fault: str, argument: str) -> None:
        """Raise DataError where shuffles leave all as it is."""
        if not self._differ(values):
            strata = int(self.strata.max()) + 1
            where = "in each group of within= all" if strata > 1 else "all its"
            raise DataError(
                f"Site {site!r}: {where} rows {fault} changes anything.",
                arguments=("within", argument) if strata > 1 else (argument,),
            )

    def _differ(self, values: Array) -> bool:
        """Whether the units of a stratum have several values."""
        return _of_each(self.strata, values, int(self.strata.max()) + 1) is None


def _ids(source: Source, columns: SampleColumns, rows: Observations, together: str | None) -> tuple[str, Array]:
    if together == ROW:
        return "row", np.arange(rows.number)
    if together is None and not source.tokens:
        return "sample", rows.numbers
    if together is None and not columns.has(SAMPLE_ID):
        raise DataError(
            f"Nothing tells which rows of site {source.name!r} are of one sample: there is no {SAMPLE_ID!r}. Give "
            "together= another column, or together='row' to take each row by itself.",
            arguments=("together",),
        )
    name = together or SAMPLE_ID
    return ("sample" if together is None else name), _values(columns, name, "together")[rows.numbers]


def _values(columns: SampleColumns, name: str, argument: str) -> Array:
    try:
        values = columns.find(name).values
    except DataError as error:
        raise DataError(f"{error} It is asked for by {argument}=.", arguments=(argument,)) from error
    return values.astype(str) if values.dtype.kind == "O" else values


def _of_each(of: Codes, values: Array, number: int) -> Array | None:
    """The value of each unit; None where the observations of one differ."""
    found = np.zeros(number, values.dtype)
    found[of] = values
    return found if (found[of] == values).all() else None
