"""The app: its commands, and what becomes of their errors."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import probekit
from probekit import plugins
from probekit._provenance import COMMAND
from probekit.cli import (
    compare_commands,
    export_commands,
    figure_commands,
    model_commands,
    new,
    output,
    plugin_commands,
    report_commands,
    store_commands,
)
from probekit.cli.examples import epilog
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
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except ProbekitError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand)
            fail(f"{error}{option_hint(error.arguments, command)}")
        except BrokenPipeError:  # what reads has seen enough, such as `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
            raise typer.Exit(1) from None
        except OSError as error:
            fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.")
        except KeyboardInterrupt:
            output.paragraph(
                "Error: Stopped. What was finished is kept: a store opens with the samples it committed, and the same "
                "capture with --resume resumes from there. So do the same measurement, if it had --out, and a recipe."
            )
            measuring = sys.modules.get("probekit._measure.crew")  # whose import takes seconds
            if measuring is not None and measuring.left():
                measuring.end_at_once(1)
            raise typer.Exit(1) from None
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
for command in (
    model_commands.sites,
    model_commands.capture,
    model_commands.plan,
    store_commands.info,
    store_commands.verify,
    store_commands.measure,
    store_commands.top,
    report_commands.report,
    compare_commands.compare,
    figure_commands.plot,
    export_commands.export,
    plugin_commands.metrics,
    plugin_commands.recipes,
):
    app.command(command.__name__, epilog=epilog(command.__name__))(command)
_new = typer.Typer(no_args_is_help=True)
for command in (new.metric, new.recipe):
    _new.command(command.__name__, epilog=epilog("new"))(command)
app.add_typer(_new, name="new", help="Begin a package with a metric or a recipe of your own.", epilog=epilog("new"))
app.add_typer(
    typer.Typer(cls=RecipeGroup, no_args_is_help=True),
    name="run",
    epilog=epilog("run"),
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
