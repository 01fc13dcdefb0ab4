"""Recipes as commands: the typed parameters of a recipe's ``run`` become the options of ``probekit run NAME``."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from probekit import plugins
from probekit._bars import Bars
from probekit._recipe import Recipe
from probekit._table import Table
from probekit.cli import output
from probekit.cli.values import path_of
from probekit.errors import PluginError


class RecipeGroup(TyperGroup):
    """The group ``run``, whose commands are the installed recipes.

    Its help imports them all, and says of one that is broken what is wrong with it; a run imports only its own.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(plugins.find(plugins.RECIPES))

    _lists = False  # whether the help is asked for
    _completes = False  # whether a shell asks for the names

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """What a shell offers: the names alone, since a recipe's imports take long."""
        self._completes = True
        return super().shell_complete(ctx, incomplete)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self._completes:
            return TyperCommand(cmd_name)
        try:
            return command(Recipe.of(cmd_name, plugins.load(plugins.RECIPES, cmd_name)))
        except PluginError as error:
            if not self._lists:
                raise
            return TyperCommand(cmd_name, help=f"Can't be used. {error}")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._lists = True
        super().format_help(ctx, formatter)


def command(recipe: Recipe) -> TyperCommand:
    """The command of a recipe."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(recipe.name, help=inspect.getdoc(recipe.run))(_as_command(recipe))
    made = typer.main.get_command(app)
    assert isinstance(made, TyperCommand)  # an app with one command is that command
    return made


def _as_command(recipe: Recipe) -> Callable[..., None]:
    options = [_option(parameter, recipe.hints[parameter.name]) for parameter in recipe.options]

    def execute(**chosen: Any) -> None:
        outcome = recipe.run(**chosen, progress=Bars())
        recipe.check_outcome(outcome)
        _show(outcome)

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
        named = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
        output.table(Table.from_dataframe(title, named), as_json=False)
    output.paragraph(f"Report: {outcome.report}")
