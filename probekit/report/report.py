"""A report of a store or of results, written in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from probekit._files import local_path
from probekit._probe.selectors import Selector
from probekit._provenance import COMMAND, call_of
from probekit.errors import check_kind
from probekit.metrics import Metric
from probekit.progress import Progress, silent
from probekit.report.subject import Subject

__all__ = ["write"]


def write(
    source: str | Path | xr.DataTree,
    path: str | os.PathLike[str],
    *,
    store: str | Path | xr.DataTree | None = None,
    metrics: str | Metric | Sequence[str | Metric] | None = None,
    sites: Selector | None = None,
    title: str | None = None,
    data: Any = None,
    progress: Progress = silent,
) -> Path:
    """A page about a store or about results: one file that needs no network, which a browser shows. Returns its path.

    It says which model and data there are, what to be wary of, what each site and each class show, which nodes tell
    each class and on what samples; and has a part in which a reader explores every node, see `Page.explorer`.

    Args:
        source: a store, which is measured now, or results of `probekit.measure` or `probekit.measure_live`: the path of
            one, an open store, or the tree of results. Of a `probekit.Watch`, the last step is shown.
        path: where to write the page, such as ``"report.html"``. It replaces what is there.
        store: the store that results are of, for what they don't hold: samples, predictions, and numbers of samples.
        metrics: what to measure of a store, as for `probekit.measure`; by default what fits the store.
        sites: a glob, a regex or a list of them; by default all sites.
        title: by default the model and the data.
        data: the data set that was captured, indexed like the store's samples, for pictures of samples that the store
            has no path of. Without transforms they look best.
        progress: wraps the iterable of finished tasks of the measurement.

    Raises:
        StoreError: there is neither a store nor results.
        SiteError: no site matches `sites`.
        DataError: results with `metrics`, or a store with `store`.
        ProbekitError: the page can't be written.

    Example:
        >>> import tempfile, torch, probekit as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        >>> m = pk.measure_live(model, (torch.randn(90, 4), torch.arange(90) % 3), ["mean", "auroc"], sites="1")
        >>> pk.report.write(m, tempfile.mkdtemp() + "/report.html").name
        'report.html'
    """
    given = locals().copy()
    from probekit.report.contents import page_of  # which imports Bokeh

    target = local_path(path, "path")
    check_kind("title", title, (str, type(None)), "the title of the page, or None")
    check_kind("progress", progress, Callable, "a callable that wraps an iterable")
    subject = Subject.of(source, store, metrics, sites, progress)
    return page_of(subject, title, COMMAND.get() or call_of(write, given), data).write(target)
