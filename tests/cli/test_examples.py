"""The examples in the help of each command."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from probekit.cli import main
from probekit.cli.examples import EXAMPLES
from tests.cli.conftest import Call

ROOT: Any = typer.main.get_command(main)


def test_every_command_has_examples() -> None:
    assert {*EXAMPLES} == {*ROOT.commands}


@pytest.mark.parametrize("example", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_a_call_of_the_command(example: str) -> None:
    program, name, *arguments = shlex.split(example)
    assert program == "probekit"
    assert example in EXAMPLES[name]
    if name == "run":
        name, *arguments = "recipes", *()  # whose arguments are the recipe's
    with ROOT.make_context("probekit", [name, *arguments], resilient_parsing=False) as context:
        command = ROOT.get_command(context, name)
        command.make_context(name, list(arguments), parent=context)  # raises where something isn't understood


@pytest.mark.parametrize("command", EXAMPLES)
def test_the_help_shows_them(call: Call, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = call(command, "--help")
    assert code == 0
    shown = [line.strip() for line in out.splitlines()]
    assert "Examples:" in shown
    for example in EXAMPLES[command]:
        assert example in shown
