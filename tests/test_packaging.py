"""What pyproject.toml, the package, and CITATION.cff each say of the same things."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import probekit
from probekit import plugins

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def citation(field: str) -> str:
    [value] = re.findall(rf"^{field}: *\"?([^\"\n]+)\"?$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    return str(value)


def test_one_version() -> None:
    assert importlib.metadata.version("probekit") == probekit.__version__
    assert citation("version") == probekit.__version__


def test_every_folder_of_modules_is_packaged(project: dict[str, Any]) -> None:
    library = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "probekit").rglob("__init__.py")}
    recipes = {
        ".".join(["probekit", *file.parent.relative_to(ROOT).parts]) for file in (ROOT / "recipes").rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == library | recipes


def test_every_other_file_of_a_package_is_packaged(project: dict[str, Any]) -> None:
    patterns = project["tool"]["setuptools"]["package-data"].items()
    shipped = {
        file for package, globs in patterns for glob in globs for file in ROOT.joinpath(*package.split(".")).glob(glob)
    }
    files = {file for file in (ROOT / "probekit").rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert shipped == files


def test_no_folder_of_modules_lacks_its_init() -> None:
    folders = {file.parent for folder in ("probekit", "recipes") for file in (ROOT / folder).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


@pytest.mark.parametrize("group", [plugins.METRICS, plugins.RECIPES])
def test_the_entry_points_are_installed_as_they_are_written(group: str, project: dict[str, Any]) -> None:
    installed = {
        name: plugin.value for name, plugin in plugins.find(group).items() if plugin.distribution == "probekit"
    }
    assert installed == project["project"]["entry-points"][group]


def test_the_constraints_pin_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][\w.]*", pin) for pin in pins)


def test_the_constraints_pin_every_dependency(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"].values()
    wanted = [requirement for each in (project["project"]["dependencies"], *extras) for requirement in each]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in wanted} - {"probekit"}  # by its own extras
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names <= pinned
