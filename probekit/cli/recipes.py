"""Recipes as commands: the typed parameters of a recipe's ``run`` become the options of ``probekit run NAME``."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from probekit import plugins
from probekit._bars import Bars
from probekit._table import Table
from probekit.cli import output
from probekit.cli.values import path_of
from probekit.errors import PluginError


class RecipeGroup(TyperGroup):
    """The group ``run``, whose commands are the installed recipes; one is imported only when it is named."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(plugins.find(plugins.RECIPES))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return command(cmd_name, plugins.load(plugins.RECIPES, cmd_name))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the names alone: a help text would need every recipe's imports."""


def command(name: str, recipe: Any) -> TyperCommand:
    """The command of a recipe, a module or object with a function ``run``."""
    run = getattr(recipe, "run", None)
    if not callable(run):
        raise PluginError(f"The recipe {name!r} ({recipe!r}) has no function run(...); its author has to give it one.")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name, help=inspect.getdoc(run))(_as_command(run))
    made = typer.main.get_command(app)
    assert isinstance(made, TyperCommand)  # an app with one command is that command
    return made


def _as_command(run: Callable[..., Any]) -> Callable[..., None]:
    hints = get_type_hints(run, include_extras=True)
    given = inspect.signature(run).parameters.values()
    options = [_option(parameter, hints[parameter.name]) for parameter in given if parameter.name != "progress"]

    def execute(**chosen: Any) -> None:
        _show(run(**chosen, progress=Bars()))

    execute.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return execute


def _option(parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
    kind, text = (get_args(hint)[0], get_args(hint)[1]) if get_origin(hint) is Annotated else (hint, None)
    default, option = parameter.default, typer.Option(help=text)
    if _is_path(kind):
        option = typer.Option(help=text, parser=path_of, metavar="PATH")
        kind = Any
    item = _tuple_item(kind)
    if item is not None:
        option = typer.Option(help=text, parser=lambda written: _parse(written, item), metavar=f"{item.__name__},…")
        default = None if default is None else ",".join(map(str, default))
        kind = Any
    return parameter.replace(annotation=Annotated[kind, option], default=default, kind=inspect.Parameter.KEYWORD_ONLY)


def _is_path(kind: Any) -> bool:
    """Whether an option is a ``Path`` or a ``Path | None``."""
    return kind is Path or (get_origin(kind) in (Union, types.UnionType) and Path in get_args(kind))


def _tuple_item(kind: Any) -> type | None:
    """``int`` for ``tuple[int, ...]`` and for ``tuple[int, ...] | None``."""
    if get_origin(kind) in (Union, types.UnionType):
        return next((item for item in map(_tuple_item, get_args(kind)) if item is not None), None)
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _parse(written: Any, item: type) -> tuple[Any, ...]:
    read = path_of if item is Path else item
    try:
        return tuple(read(part) for part in str(written).split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{written!r} is not a list such as 2,4 of {item.__name__}s.") from error


def _show(outcome: Any) -> None:
    for title, frame in outcome.tables.items():
        output.table(Table.from_dataframe(title, frame), as_json=False)
    output.paragraph(f"Report: {outcome.report}")
