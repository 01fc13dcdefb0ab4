"""The app: its commands, and what becomes of their errors."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import probekit
from probekit import plugins
from probekit._provenance import COMMAND
from probekit.cli import (
    compare_commands,
    figure_commands,
    model_commands,
    output,
    plugin_commands,
    report_commands,
    store_commands,
)
from probekit.cli.hints import option_hint
from probekit.cli.recipes import RecipeGroup
from probekit.errors import ProbekitError

__all__ = ["app"]


_COMMAND = "probekit.command"  # among what click keeps of a call


class Root(TyperGroup):
    """The one place where an error becomes a paragraph and an exit code."""

    def make_context(self, info_name: Any, args: list[str], *rest: Any, **more: Any) -> Any:
        given = shlex.join(["probekit", *args])  # before it is parsed
        context = super().make_context(info_name, args, *rest, **more)
        context.meta[_COMMAND] = given
        return context

    def invoke(self, ctx: Any) -> Any:
        output.plain_warnings()
        plugins.warn_of_namesake()
        before = COMMAND.set(ctx.meta[_COMMAND])
        try:
            return super().invoke(ctx)
        except ProbekitError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand)
            fail(f"{error}{option_hint(error.arguments, command)}")
        except OSError as error:
            fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.")
        except KeyboardInterrupt:
            fail(
                "Stopped. What was finished is kept: a store opens with the samples it committed. The same capture "
                "with --resume resumes from there, and so does a recipe that is run again."
            )
        finally:
            COMMAND.reset(before)


def fail(text: str) -> NoReturn:
    output.paragraph(f"Error: {text}")
    raise typer.Exit(1)


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="What the units of a neural network do, for each class of input.",
)
app.command("sites")(model_commands.sites)
app.command("capture")(model_commands.capture)
app.command("plan")(model_commands.plan)
app.command("info")(store_commands.info)
app.command("verify")(store_commands.verify)
app.command("measure")(store_commands.measure)
app.command("top")(store_commands.top)
app.command("compare")(compare_commands.compare)
app.command("plot")(figure_commands.plot)
app.command("report")(report_commands.report)
app.command("metrics")(plugin_commands.metrics)
app.command("recipes")(plugin_commands.recipes)
app.add_typer(
    typer.Typer(cls=RecipeGroup, no_args_is_help=True),
    name="run",
    help="Run a recipe: a whole study. `probekit recipes` lists them, `probekit run NAME --help` its options.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"probekit {probekit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = (
        False
    ),
) -> None:
    pass
