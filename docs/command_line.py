"""Write docs/command-line.md from the commands themselves; the tests compare the two."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import typer

from probekit import plugins
from probekit.cli.app import app

PAGE = Path(__file__).parent / "command-line.md"
HEAD = """# Command line

<!-- made by `make readme` -->

Every command with its arguments and options, as `probekit COMMAND --help` prints them. Errors are one paragraph, with
exit code 1, or 2 where the command can't be read.

`probekit --version` prints the version; `probekit --install-completion` has the current shell complete what you type,
and `probekit --show-completion` prints what that would install.
"""
ENTRIES = "| name | takes | default | what it says |\n|---|---|---|---|"


def commands() -> Iterator[tuple[str, Any, typer.Context]]:
    """Each command of probekit itself as (what is typed, the command, its context), in the order of the help."""
    root = typer.main.get_command(app)
    return _below("probekit", root, typer.Context(root, info_name="probekit"))


def _below(typed: str, group: Any, context: typer.Context) -> Iterator[tuple[str, Any, typer.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name) if _is_own(typed, name) else None
        if command is None:
            continue
        path, inner = f"{typed} {name}", typer.Context(command, info_name=name, parent=context)
        if hasattr(command, "list_commands"):
            yield from _below(path, command, inner)
        else:
            yield path, command, inner


def _is_own(typed: str, name: str) -> bool:
    """Whether a command is probekit's: recipes may be those of other packages."""
    return typed != "probekit run" or plugins.find(plugins.RECIPES)[name].distribution == "probekit-torch"


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_section(*each) for each in commands())])


def _section(path: str, command: Any, context: typer.Context) -> str:
    said, examples = _text_and_examples(command, path)
    usage = " ".join([path, *command.collect_usage_pieces(context)]).replace("{", "").replace("}", "")
    in_order = sorted(command.params, key=lambda each: each.param_type_name == "option")
    blocks = [f"## `{path}`", _escaped(said), f"```text\n{usage}\n```", f"```sh\n{examples}\n```"]
    if in_order:
        blocks.append("\n".join([ENTRIES, *(_row(each, context) for each in in_order)]))
    return "\n\n".join(blocks) + "\n"


def _text_and_examples(command: Any, path: str) -> tuple[str, str]:
    """What a command's help says, and the commands under its «Example:» or, where nothing has to be given, its name."""
    said, *rest = re.split(
        r"^Examples?:", f"{command.help}\n\n{command.epilog or ''}".replace("\b\n", ""), flags=re.MULTILINE
    )
    examples = [line.strip() for line in "".join(rest).splitlines() if line.strip()]
    return said.strip(), "\n".join(examples or [path])


def _row(parameter: Any, context: typer.Context) -> str:
    written, text = parameter.get_help_record(context)
    text, about = re.fullmatch(r"(.*?)(?:  \[([^\[]*)\])?", text, re.DOTALL).groups()
    facts = [fact for fact in (about or "").split("; ") if fact]
    bounds = "".join(fact[1:].replace(">=", " ≥ ") for fact in facts if fact.startswith("x>="))
    default = next((f"`{fact.removeprefix('default: ')}`" for fact in facts if fact.startswith("default: ")), "")
    names = [*parameter.opts, *parameter.secondary_opts]
    for name in names:
        written = written.replace(name, "", 1)
    return " | ".join(
        [
            "| " + ", ".join(f"`{name}`" for name in names),
            _kind(written.strip(" ,/<>")) + bounds,
            "required" if "required" in facts else default,
            f"{_escaped(text).replace('|', chr(92) + '|')} |",
        ]
    )


def _kind(written: str) -> str:
    """What a parameter takes: a type, or one of several words."""
    kind = re.sub(r"^.*\blist\[(.*)\]$", r"\1", written).removesuffix(" range")
    return " or ".join(f"`{word}`" for word in kind.split("|")) if "|" in kind else kind.lower()


def _escaped(text: str) -> str:
    """A help text as Markdown, its options and globs as code."""
    parts = re.split(r"(`[^`]*`|'[^' `]+'|(?<![\w-])--[a-z][\w-]*)", text)  # every other one is code
    plain = [re.sub(r"([*<\[\]])", r"\\\1", part) for part in parts[::2]]
    code = [f"`{part.strip('`')}`" for part in parts[1::2]]
    return "".join(map("".join, zip_longest(plain, code, fillvalue="")))


if __name__ == "__main__":
    PAGE.write_text(page())
