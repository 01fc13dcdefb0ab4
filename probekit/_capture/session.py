"""One capture as it runs: a model and its data, and the store that they go into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import nn

from probekit._capture.fingerprint import check_same, inputs_digest, weights_digest
from probekit._capture.plan import CapturePlan
from probekit._data.batches import Batch, Batches
from probekit._data.columns import PREDICTION, predictions
from probekit._data.sampler import ChunkSampler
from probekit._forward.dry_run import Request
from probekit._forward.forward_pass import Loss, Passes
from probekit._forward.recorder import Recorder, into
from probekit._probe.hooks import Probe
from probekit._probe.selectors import rules
from probekit._probe.site_table import running
from probekit._store import store
from probekit._store.backend import Place
from probekit._store.codec import Array
from probekit._store.layout import SAMPLES, Json, Layout
from probekit._store.record import create, lengths_of, nodes_of
from probekit._version import __version__
from probekit._write.rank_writer import RankWriter
from probekit._write.site_writer import SiteWriter
from probekit._write.transfer import Copies
from probekit._write.writer import Start, Writer
from probekit.errors import DataError, StoreError

__all__ = ["Session"]


@dataclass(frozen=True)
class Session:
    """A model, what is kept of it, and its data, of which `first` is the first batch.

    `new`, `resumed`, `longer` and `wider` give the writer of a store; `run` fills it.
    """

    model: nn.Module
    request: Request
    loss: Loss | None
    batches: Batches
    first: Batch
    plan: CapturePlan
    place: Place
    copies: Copies

    def new(self) -> Writer:
        """The writer of a store that isn't there yet."""
        self.plan.require_room(self.place)
        layout, attrs = self.plan.layout(self._dtypes), self._attrs(0)
        nodes = create(self.place, layout, attrs, self.batches.rows or 0)
        start = Start(nodes, attrs, dict.fromkeys(layout.arrays, 0))
        return Writer(self.place, layout, start, self.copies)

    def resumed(self) -> Writer | None:
        """The writer that goes on with a store that isn't complete; None where it is.

        Raises:
            StoreError: the store was made otherwise.
        """
        record = store.read_record(self.place)
        theirs = record["attributes"]
        layout, attrs = self._laid_out(theirs), self._attrs(theirs["start"])
        nodes = nodes_of(layout, attrs.get("expected_rows", 0))
        check_same(self.place.url, record, attrs, nodes)
        return None if theirs["complete"] else self._writer(record, layout, nodes, attrs)

    def longer(self) -> Writer:
        """The writer that puts the samples after those of a complete store.

        Raises:
            StoreError: the store isn't complete, or was made otherwise.
        """
        record = store.read_record(self.place)
        theirs = record["attributes"]
        self._require_complete(theirs)
        layout, attrs = self._laid_out(theirs), self._attrs(theirs["rows"])
        if self.batches.rows == self.first.rows < theirs["batch_size"]:  # all of the data are less than a batch
            attrs["batch_size"] = theirs["batch_size"]
        nodes = nodes_of(layout, attrs.get("expected_rows", 0))
        check_same(self.place.url, record, attrs, nodes, ignore=("inputs", "expected_rows"))
        return self._writer(record, layout, nodes, attrs)

    def wider(self) -> SiteWriter:
        """The writer that adds sites to a complete store, of the same samples.

        Raises:
            StoreError: the store isn't complete, was made otherwise, or has one of the sites.
        """
        record = store.read_record(self.place)
        theirs = record["attributes"]
        self._require_complete(theirs)
        layout = replace(self._laid_out(theirs), new_columns=False)
        nodes = nodes_of(layout, theirs["rows"])
        there = [site for site, group in layout.groups.items() if group in record["consolidated_metadata"]["metadata"]]
        if there:
            raise StoreError(f"{self.place.url} has {', '.join(map(repr, there))} already. Select other sites.")
        ours = self._attrs(0)
        ignore = ("inputs",) if theirs["start"] else ()  # of a store made in parts, those of its last part are known
        check_same(self.place.url, record, ours, None, ignore=ignore)
        self.plan.require_room(self.place)
        attrs = {**theirs, "sites": [*theirs["sites"], *ours["sites"]]}
        lengths = dict.fromkeys(layout.arrays, 0)
        start = Start(nodes, attrs, lengths, store.class_names(self.place, record))
        return SiteWriter(self.place, layout, start, self.copies, record)

    def require_alike(self) -> None:
        """Raise DataError where several processes would give the classes different codes."""
        if self.batches.names_grow:
            raise DataError(
                "The labels are strings, which each process would number in its own order. Give class_names=, all of "
                "them in order."
            )

    def ranked(self, sampler: ChunkSampler) -> RankWriter:
        """The writer of this process's chunk-rows."""
        record = store.read_record(self.place)
        layout = self._laid_out(record["attributes"])
        nodes = nodes_of(layout, sampler.total)
        start = Start(nodes, record["attributes"], {SAMPLES: 0}, store.class_names(self.place, record))
        return RankWriter(self.place, layout, start, self.copies, sampler)

    def _laid_out(self, theirs: Json) -> Layout:
        """The arrays, in tiles as long as those that are there."""
        plan = replace(self.plan, chunk_rows=theirs["chunk_rows"], token_rows=theirs["token_rows"])
        return plan.layout(self._dtypes)

    def _writer(self, record: Json, layout: Layout, nodes: dict[str, Json], attrs: Json) -> Writer:
        attrs = {**attrs, "created": record["attributes"]["created"]}
        start = Start(nodes, attrs, lengths_of(layout, record), store.class_names(self.place, record))
        return Writer(self.place, layout, start, self.copies)

    def _require_complete(self, theirs: Json) -> None:
        if not theirs["complete"]:
            raise StoreError(
                f"{self.place.url} isn't complete, so nothing can be added to it. Finish it first: the same capture "
                "with resume=True (--resume)."
            )

    def run(self, stream: Iterable[Batch], writer: Writer) -> None:
        """Run the model on every batch that isn't in the store yet, and compare the others' columns with it."""
        done, offset = writer.committed, writer.offset
        seen = store.Columns(self.place, self._unknown) if writer.compares else None
        end = offset
        recorder, passes = Recorder(self.plan.model, self.plan.kept, into(writer)), self._passes
        with running(self.model, self.request.mode), Probe(self.model, self.plan.names, record=recorder) as probe:
            for number, batch in enumerate(stream):
                if offset:
                    batch = replace(batch, start=offset + batch.start)
                columns, end = _columns(batch), batch.start + batch.rows
                if seen is not None:
                    seen.check(columns, batch.start)
                if end <= done and batch.rows:
                    continue
                recorder.begin(batch, number)
                writer.begin(batch.rows, at=batch.start)
                output = passes.run(batch, probe)
                predicted = {name: predictions(output, batch.rows) for name in self._unknown}
                recorder.end()
                writer.end(columns | predicted, self.batches.class_names or ())
        if seen is not None and end < seen.rows:
            raise DataError(
                f"The data hold {end - offset} samples, and {self.place.url} has {seen.rows - offset} of them already."
            )
        recorder.warn_of_overflow()

    @property
    def _unknown(self) -> tuple[str, ...]:
        """The columns that are known only when the model has run."""
        return (PREDICTION,) if self.request.predictions else ()

    @property
    def _passes(self) -> Passes:
        return Passes(self.model, self.request.mode, self.loss, self.plan.gradients)

    @property
    def _dtypes(self) -> dict[str, np.dtype[Any]]:
        known = {name: values.dtype for name, values in _columns(self.first).items()}
        return known | dict.fromkeys(self._unknown, np.dtype(np.int64))

    def _attrs(self, start: int) -> Json:
        """How the store is made: what `probekit info` shows, and what a later capture into it has to agree with.

        `start` is the number of the data's first sample in the store.
        """
        attrs = {
            "probekit_version": __version__,
            "torch_version": str(torch.__version__),
            "model": f"{type(self.model).__module__}.{type(self.model).__qualname__}",
            "weights": weights_digest(self.model),
            "inputs": inputs_digest(self.first.inputs),
            "sites": [str(rule) for rule in rules(self.request.sites)],
            "dtype": self.request.dtype or "as given",
            "mode": self.request.mode,
            "predictions": "kept" if self.request.predictions else "not kept",
            "batch_size": self.first.rows,
            "start": start,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if self.batches.rows is not None:
            attrs["expected_rows"] = start + self.batches.rows
        if self._passes.gradients:
            attrs["loss"] = self._passes.loss_name
        return attrs


def _columns(batch: Batch) -> dict[str, Array]:
    """The columns of a batch; samples that carry no id are numbered."""
    return {"sample_id": np.arange(batch.start, batch.start + batch.rows)} | batch.columns
