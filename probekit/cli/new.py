"""The commands that begin a package of one's own: new metric and new recipe."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Annotated, Literal

import typer

from probekit import plugins
from probekit.cli import output
from probekit.errors import PluginError

__all__ = ["metric", "recipe"]

Name = Annotated[str, typer.Argument(help="What it is called, such as spread or my-study.")]
Into = Annotated[Path, typer.Option(help="The folder in which the package's folder is made.")]

_ENDING = ".jinja"


def metric(name: Name, into: Into = Path()) -> None:
    """Begin a package with a metric of your own, registered and tested."""
    _begin("metric", name, into)


def recipe(name: Name, into: Into = Path()) -> None:
    """Begin a package with a recipe of your own: a study that becomes a command, registered and tested."""
    _begin("recipe", name, into)


def _begin(kind: Literal["metric", "recipe"], name: str, into: Path) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    _check(kind, name)
    distribution, package = f"probekit-{name.replace('_', '-')}", f"probekit_{name.replace('-', '_')}"
    folder = into / distribution
    if folder.exists():
        raise PluginError(f"{folder} exists already. Remove it, or give another name or --into.")
    loader = PackageLoader("probekit.cli", "skeletons")
    skeletons = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    fields = {"kind": kind, "name": name, "distribution": distribution, "package": package}
    for template in skeletons.list_templates(filter_func=lambda path: path.startswith(f"{kind}/")):
        made = template.removeprefix(f"{kind}/").removesuffix(_ENDING).replace("package/", f"{package}/")
        target = folder / made
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(skeletons.get_template(template).render(fields))
    output.paragraph(f'Made {folder}. In it: pip install -e ".[test]", then pytest. README.md says what comes next.')


def _check(kind: str, name: str) -> None:
    """Raise PluginError for a name that can't be that of a metric or recipe, or is taken."""
    plain = name.replace("-", "_") if kind == "recipe" else name
    if not (plain.isascii() and plain.isidentifier() and plain == plain.lower()) or keyword.iskeyword(plain):
        marks = "underscores" if kind == "metric" else "hyphens"
        raise PluginError(
            f"{name!r} can't name a {kind}: use lower-case letters, digits and {marks}, and begin with a letter."
        )
    there = plugins.find(f"probekit.{kind}s").get(name)
    if there is not None:
        raise PluginError(f"{there.distribution} {there.version} has a {kind} {name!r} already. Give another name.")
