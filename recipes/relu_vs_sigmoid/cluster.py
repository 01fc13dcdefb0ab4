"""The trainings of a run on a cluster of dask's, a shape of networks to a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from probekit.cluster import RETRIES, client_of, result_of
from probekit.errors import ProbekitError
from probekit.progress import silent

from .jobs import Jobs
from .networks import Config
from .settings import Settings
from .splitting import split_of
from .study import trained

__all__ = ["on_cluster"]


def on_cluster(address: str, jobs: Jobs, data_dir: Path | None, device: str) -> Iterator[Sequence[Config]]:
    """Each shape as soon as a worker has trained it and left it in the run's folder, where `jobs` finds it finished.

    A worker that is killed costs its training what came after the last checkpoint.

    Raises:
        ProbekitError: there is no such cluster, or it gives up on a training; and what the training raises.
    """
    from distributed import as_completed

    settings = jobs.settings
    if Path(settings.source).is_file():
        settings = replace(settings, source=str(Path(settings.source).resolve()))
    given = settings, jobs.folder.resolve(), jobs.checkpoint_every, data_dir and data_dir.resolve(), device
    with client_of(address) as client:
        futures = {
            client.submit(_train, configs, *given, pure=False, retries=RETRIES): configs for configs in settings.shapes
        }
        try:
            finished = as_completed(list(futures), loop=client.loop)
            for future in jobs.progress(finished, "train on the cluster", len(futures)):
                shape = futures[future][0].shape
                result_of(future, f"The cluster gave up on the networks {shape} (checkpoints are kept)")
                yield futures[future]
        finally:
            client.cancel(list(futures))


def _train(
    configs: Sequence[Config], settings: Settings, folder: Path, every: int, data_dir: Path | None, device: str
) -> ProbekitError | None:
    """Leave the networks in the folder; an error of ours is returned, since to try again would change nothing."""
    try:
        trained(configs, Jobs(settings, split_of(settings, data_dir, device), folder, every, silent))
    except ProbekitError as error:
        return error
    return None
