"""What several test files need: a fresh Python process, distributions that are really built, a cluster of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import processes

Run = subprocess.CompletedProcess[str]

# A busy machine is no failure. CI tries the same examples each time, others try new ones.
settings.register_profile(
    "ours", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("ours")


@pytest.fixture
def python() -> Callable[..., Run]:
    """Runs code in a fresh process with the given folders on PYTHONPATH, as ``python -c code *arguments`` does."""

    def run(code: str, *arguments: str, paths: tuple[Path, ...] = (), cwd: Path | None = None) -> Run:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "200"}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of dask's: two workers that are processes, of one thread each."""
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    processes.run(bool)  # whose server then forks the workers too
    config = {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.deploy.lost-worker-timeout": "600s",  # a killed worker that takes longer to return is given up
    }
    with (
        dask.config.set(config),
        warnings.catch_warnings(action="ignore"),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made,
    ):
        yield made


PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "{version}"

[project.entry-points."{group}"]
{entries}

[tool.setuptools]
py-modules = {modules}
"""


@pytest.fixture
def distribution(tmp_path: Path) -> Callable[..., Path]:
    """Builds a distribution of the given modules and installs it into a folder of its own, which it gives."""

    def install(name: str, group: str, entries: dict[str, str], modules: dict[str, str], version: str = "1.0") -> Path:
        source, target = tmp_path / f"{name}-source", tmp_path / name
        source.mkdir()
        lines = "\n".join(f'{entry} = "{value}"' for entry, value in entries.items())
        project = PROJECT.format(name=name, version=version, group=group, entries=lines, modules=list(modules))
        (source / "pyproject.toml").write_text(project)
        for module, code in modules.items():
            (source / f"{module}.py").write_text(code)
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"]
        # Built by the setuptools of this environment, so nothing is fetched.
        subprocess.run([*uv, "--no-build-isolation", "--target", target, source], check=True, timeout=120)
        return target

    return install
