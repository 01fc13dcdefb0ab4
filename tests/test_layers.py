"""Who may import whom, read from the source; and what the command line must not import to answer --help."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import probekit

ROOT = Path(__file__).parents[1]

# A part may import those above it here, and those on its own line where that makes no circle.
LEVELS = (
    {"errors", "progress"},
    {
        "chunks",
        "cluster",
        "columns",
        "fingerprint",
        "growing",
        "layout",
        "names",
        "places",
        "pooling",
        "reduce",
        "sizes",
        "streams",
        "tiles",
    },
    {"batches", "buffers", "copies", "load", "metrics", "opening", "probe", "reading", "records"},
    {"accumulate", "results", "selection", "sites", "sources", "tables", "validation"},
    {"groups", "passes", "steps", "store", "verify", "writer"},
    {"plan", "tasks"},
    {"additions", "parts", "planning", "recorder", "request", "schedule"},
    {"ranks", "rows", "session"},
    {"capture", "describe", "live", "measure", "plot", "plugins", "testing"},
    {"report", "watch"},
    {"callbacks", "cli"},
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}

# What recipes may use beside the names of the package itself.
PUBLIC = {"cluster", "errors", "load", "metrics", "plot", "progress", "report", "testing"}

# The only parts that may import a library at all.
ONLY = {
    "pytest": {"testing"},
    "typer": {"cli"},
    "rich": {"cli"},
    "matplotlib": {"plot", "report"},
    "sklearn": {"load", "metrics"},
}

HEAVY = ["torch", "torchvision", "xarray", "matplotlib", "sklearn", "zarr", "numpy"]


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


def part_of(name: str) -> str | None:
    """The part of probekit that a public name or a module's name belongs to; None for what is the package's own."""
    if name in LEVEL:
        return name
    public = probekit._PUBLIC.get(name)
    return public[0].split(".")[1] if public else None


def parts_used(file: Path) -> set[str]:
    used = set(attributes(file))
    for module, name in imports(file):
        package, _, inside = module.partition(".")
        if package == "probekit":
            used.add(inside.partition(".")[0] or name)
    return {part for name in used if (part := part_of(name))}


def library() -> Iterator[tuple[str, Path]]:
    """Each file of the library with its part, but for the package's own __init__."""
    for file in files("probekit"):
        if file != ROOT / "probekit" / "__init__.py":
            yield module_of(file).split(".")[1], file


def test_every_part_has_a_level() -> None:
    assert {part for part, _ in library()} <= LEVEL.keys()


@pytest.mark.parametrize(("part", "file"), [pytest.param(*each, id=module_of(each[1])) for each in library()])
def test_imports_point_down(part: str, file: Path) -> None:
    above = {used for used in parts_used(file) if LEVEL[used] > LEVEL[part]}
    assert not above, f"{module_of(file)} imports {above}, which are above it"


def test_parts_import_in_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for part, file in library():
        graph.setdefault(part, set()).update(parts_used(file) - {part})
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_package_itself_imports_only_the_standard_library_as_it_loads(python: Callable[..., Any]) -> None:
    code = f"import sys, probekit; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert python(code, paths=(ROOT,)).stdout.strip() == "[]"


@pytest.mark.parametrize("name", ONLY)
def test_a_library_is_imported_only_where_it_belongs(name: str) -> None:
    users = {part for part, file in library() for module, _ in imports(file) if module.partition(".")[0] == name}
    assert users <= ONLY[name]


def test_nothing_imports_a_recipe() -> None:
    taken = {f"{module}.{name}" for _, file in library() for module, name in imports(file)}
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
        "finally: print('imported', [name for name in sys.argv.pop().split(',') if name in sys.modules])\n"
    )
    code = code.replace("sys.argv.pop().split(',')", repr(HEAVY))
    done = python(code, "--help", paths=(ROOT,))
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported []"
