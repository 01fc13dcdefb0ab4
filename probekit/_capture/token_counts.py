"""How many rows each batch gives at the sites whose rows are tokens, counted before the model runs.

Of several processes, each has to know where its rows lie among those of the others.
"""

from __future__ import annotations

from collections.abc import Iterable

from probekit._data.batches import Batch
from probekit._forward.site_plan import PlannedSite, SitePlan
from probekit._probe.pooling import Mask
from probekit.errors import DataError

__all__ = ["TokenCounts"]


class TokenCounts:
    """The rows of each batch at the token sites of a plan.

    Where a mask says which tokens are real, they are counted by it; elsewhere each sample has as many as in the dry
    run.
    """

    def __init__(self, plan: SitePlan) -> None:
        self._sites = {site.name: site for site in plan.sites if site.spec.tokens}
        self._masks = {site.mask.key: site.mask for site in self._sites.values() if site.mask is not None}
        self._real: dict[tuple[int, object], int] = {}  # tokens, by the batch's first sample and the mask's key
        self._batch: Batch | None = None  # that runs

    @property
    def masked(self) -> bool:
        """Whether the data have to be read for the counts."""
        return bool(self._masks)

    def read(self, stream: Iterable[Batch]) -> None:
        """Count the real tokens of batches."""
        for batch in stream:
            for key, mask in self._masks.items():
                self._real[batch.start, key] = int(Mask.of(mask.of(batch.inputs)).lengths.sum())

    def of_samples(self, samples: range, batch_size: int) -> dict[str, int]:
        """The rows of each site for samples that come in batches."""
        starts = samples[::batch_size]
        return {
            name: sum(self._of_batch(site, start, min(batch_size, samples.stop - start)) for start in starts)
            for name, site in self._sites.items()
        }

    def _of_batch(self, site: PlannedSite, start: int, rows: int) -> int:
        """The rows that a site gives for the batch of so many samples that begins with sample `start`."""
        if site.mask is None:
            return round(rows * site.rows_per_sample)
        return self._real[start, site.mask.key]

    def begin(self, batch: Batch) -> None:
        """This batch runs now."""
        self._batch = batch

    def check(self, name: str, rows: int) -> None:
        """Raise DataError where a site gave another number of `rows` for the batch than was counted."""
        site, batch = self._sites[name], self._batch
        expected = rows if batch is None else self._of_batch(site, batch.start, batch.rows)
        if batch is None or rows == expected:
            return
        if site.mask is None:
            raise DataError(
                f"{name} gave {rows} rows for the {batch.rows} samples from number {batch.start} on, and in the first "
                f"batch {site.rows_per_sample:g} for each. Several processes have to know these numbers before the "
                "model runs: say which tokens are real (mask=), or pad all inputs to one length. Or capture in one "
                "process, without a ChunkSampler.",
                arguments=("mask",),
            )
        raise DataError(
            f"{name} gave {rows} rows for the {batch.rows} samples from number {batch.start} on, and the mask "
            f"{site.mask.name!r} of the same samples had {expected} real tokens when it was read before. Give data "
            "that are the same each time they are read; or capture in one process, without a ChunkSampler.",
            arguments=("mask",),
        )
