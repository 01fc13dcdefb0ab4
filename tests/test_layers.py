"""What recipes may import, and what --help must not import; `make lint` checks the floors."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import probekit

ROOT = Path(__file__).parents[1]

# What recipes may use beside the names of the package itself.
PUBLIC = {"cluster", "errors", "load", "metrics", "plot", "progress", "report", "testing"}

HEAVY = ["torch", "torchvision", "xarray", "matplotlib", "sklearn", "zarr", "numpy", "pandas", "jinja2", "PIL", "bokeh"]


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(file: Path) -> str:
    folder, *inside = file.relative_to(ROOT).with_suffix("").parts
    package = ["probekit", "recipes"] if folder == "recipes" else ["probekit"]
    return ".".join([*package, *inside]).removesuffix(".__init__")


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """The module and the name taken from it (or ''), for every import anywhere in a file."""
    package = module_of(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def attributes(file: Path) -> set[str]:
    """What a file uses of the package itself: x of ``probekit.x`` and ``pk.x``."""
    tree = ast.walk(ast.parse(file.read_text()))
    return {
        node.attr
        for node in tree
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("probekit", "pk")
    }


def test_the_package_itself_imports_only_the_standard_library_as_it_loads(python: Callable[..., Any]) -> None:
    code = f"import sys, probekit; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert python(code, paths=(ROOT,)).stdout.strip() == "[]"


def test_nothing_imports_a_recipe() -> None:
    taken = {f"{module}.{name}" for file in files("probekit") for module, name in imports(file)}
    assert not {each for each in taken if "recipes" in each.split(".") and not each.startswith("probekit.cli.")}


@pytest.mark.parametrize("file", files("recipes"), ids=module_of)
def test_recipes_use_the_public_surface(file: Path) -> None:
    allowed = {*PUBLIC, *probekit.__all__}
    assert attributes(file) <= allowed
    for module, name in imports(file):
        package, *inside = module.split(".")
        if package != "probekit" or inside[:1] == ["recipes"]:
            continue
        public = len(inside) == 1 and inside[0] in PUBLIC if inside else name in {*allowed, ""}
        assert public, f"{module_of(file)} takes {name!r} from {module}"
        assert not name.startswith("_")


def test_help_imports_nothing_heavy(python: Callable[..., Any]) -> None:
    code = (
        "import sys\n"
        "from probekit.cli import main\n"
        "try: main()\n"
        f"finally: print('imported', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = python(code, "--help", paths=(ROOT,))
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported []"


def test_the_docs_draw_the_floors_that_are_checked() -> None:
    drawn = (ROOT / "docs" / "architecture.md").read_text().split("```text\n")[1].partition("```")[0]
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    floors = [{name.strip() for name in re.split(r"[|:]", floor)} for floor in contract["layers"]]
    assert [set(line.split()[1:]) for line in drawn.splitlines()] == floors
