"""What pyproject.toml, the package, and CITATION.cff each say of the same things."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
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
    assert importlib.metadata.version("probekit-torch") == probekit.__version__
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
        name: plugin.value for name, plugin in plugins.find(group).items() if plugin.distribution == "probekit-torch"
    }
    assert installed == project["project"]["entry-points"][group]


def test_the_constraints_pin_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][\w.]*", pin) for pin in pins)


def test_the_constraints_pin_every_dependency(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"].values()
    wanted = [requirement for each in (project["project"]["dependencies"], *extras) for requirement in each]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in wanted} - {"probekit-torch"}  # by its own extras
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names <= pinned


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "target"
    source.mkdir()
    for name in ("probekit", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    subprocess.run([*uv, "--target", target, source], check=True, timeout=120)
    return target


MESSAGES = """
import json, sys
from pathlib import Path
import probekit as pk

sys.modules["distributed"] = None
Path("new.zarr").mkdir()
Path("new.zarr/zarr.json").write_text(json.dumps({"attributes": {"probekit_format": 99}}))
asked = {
    "cluster": lambda: pk.cluster.client_of("tcp://127.0.0.1:1").__enter__(),
    "s3": lambda: pk.info("zz://bucket/acts.zarr"),
    "upgrade": lambda: pk.info("new.zarr"),
}
for name, ask in asked.items():
    try:
        ask()
    except pk.errors.ProbekitError as error:
        print(name, error)
"""


def said(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {name: message for name, _, message in (line.partition(" ") for line in done.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("installed", "install", "upgrade"),
    [
        (True, "`pip install 'probekit-torch[{}]'`.", "`pip install -U probekit-torch`."),
        (False, "`pip install -e '.[{}]'` in the checkout.", "`git pull && pip install -e .` in the checkout."),
    ],
    ids=["a wheel", "a checkout"],
)
def test_messages_name_a_command_that_works_there(
    installed: bool, install: str, upgrade: str, python: Callable[..., Any], wheel: Path, tmp_path: Path
) -> None:
    messages = said(python(MESSAGES, paths=(wheel if installed else ROOT,), cwd=tmp_path))
    assert messages.keys() == {"cluster", "s3", "upgrade"}
    assert messages.pop("upgrade").endswith(upgrade)
    for extra, message in messages.items():
        assert message.endswith(install.format(extra))


def test_nothing_tells_anyone_to_install_the_probekit_of_another_project() -> None:
    folders = [ROOT / name for name in ("probekit", "recipes", "docs", ".ci")]
    inside = [file for folder in folders for file in folder.rglob("*") if "_build" not in file.parts]
    files = [*inside, *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    texts = {
        file.relative_to(ROOT): file.read_text()
        for file in files
        if file.suffix in {".py", ".md", ".toml", ""} and file.is_file()
    }
    assert len(texts) > 100
    told = re.compile(r"\bprobekit\[|(?<!un)install +([-'\"]\S* +)*['\"]?probekit(?![\w-])")
    assert [(file, found[0]) for file, text in texts.items() for found in told.finditer(text)] == []


# The files that the other distribution has too.
FOREIGN = {
    "__init__.py": '__all__ = ["LinearProbe", "__version__"]\nfrom probekit._version import version as __version__\n',
    "_version.py": '__all__ = ["__version__", "version"]\n__version__ = version = "0.4.0"\n',
}

PUBLIC = ["cluster", "errors", "load", "metrics"]

IMPORT_ALL = f"""
from importlib import import_module
for name in {PUBLIC}:
    try:
        import_module(f"probekit.{{name}}")
    except ImportError as error:
        print(name, error)
"""

CLI = "import sys; from probekit.cli import main; sys.exit(main())"


@pytest.fixture
def overwritten(wheel: Path, tmp_path: Path) -> Path:
    """Where probekit-torch is installed, and the other probekit was installed after it."""
    folder = shutil.copytree(wheel, tmp_path / "overwritten")
    for name, code in FOREIGN.items():
        (folder / "probekit" / name).write_text(code)
    return folder


@pytest.fixture
def removed(overwritten: Path) -> Path:
    """The same after the other probekit was uninstalled again."""
    for name in FOREIGN:
        (overwritten / "probekit" / name).unlink()
    return overwritten


@pytest.mark.slow
def test_modules_say_that_their_package_is_another_projects(
    python: Callable[..., Any], overwritten: Path, tmp_path: Path
) -> None:
    messages = said(python(IMPORT_ALL, paths=(overwritten,), cwd=tmp_path))
    assert list(messages) == PUBLIC
    assert all("another project's distribution, named probekit, has replaced" in each for each in messages.values())


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("metrics", "--json")], ids=" ".join)
@pytest.mark.parametrize("state", ["overwritten", "removed"])
def test_the_command_line_says_that_its_package_is_another_projects(
    state: str, arguments: tuple[str, ...], python: Callable[..., Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(state)
    done = python(CLI, *arguments, paths=(folder,), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: The package probekit in ['{folder / 'probekit'}'] isn't the one of probekit-torch, because another "
        "project's distribution, named probekit, has replaced or removed its files: uninstall both (`pip "
        "uninstall probekit probekit-torch`), then install probekit-torch again.\n"
    )
