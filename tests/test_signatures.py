"""Functions that take the same arguments take them under the same names, with the same defaults and types."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import typer

import probekit as pk
from probekit import load
from probekit.cli import main

WRITING = {"loss", "resume", "append", "overwrite", "durable", "progress"}  # what a plan needn't know
OF_THE_LINE = {"json", "weights", "seed", "device"}  # what to print, load and run on
OF_DATA = {*inspect.signature(load.dataset).parameters, "transform", "resize", "normalize", "tokenizer"}


def arguments(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function, eval_str=True).parameters)


def options(command: str) -> dict[str, Any]:
    """The options of a command, by name, with their defaults."""
    found = typer.main.get_command(main).commands[command].params  # type: ignore[attr-defined]
    return {each.name: each.default for each in found if each.opts[0].startswith("--")}


@pytest.mark.parametrize("other", [pk.plan, pk.measure_live])
def test_shared_arguments_are_equal(other: Callable[..., Any]) -> None:
    ours, theirs = arguments(pk.capture), arguments(other)
    shared = [name for name in ours if name in theirs and name != "out"]  # which a plan only looks at
    assert len(shared) > 10
    assert [theirs[name] for name in shared] == [ours[name] for name in shared]


def test_a_plan_takes_all_that_decides_what_is_captured() -> None:
    assert set(arguments(pk.plan)) == set(arguments(pk.capture)) - WRITING


@pytest.mark.parametrize(("command", "function"), [("capture", pk.capture), ("plan", pk.plan)])
def test_options_have_the_defaults_of_their_arguments(command: str, function: Callable[..., Any]) -> None:
    given, known = options(command), arguments(function)
    assert given.keys() - known.keys() <= OF_THE_LINE | OF_DATA
    assert given.pop("sites") is None  # for all sites, "**"
    assert given.pop("predictions") is None  # "auto", since the command line prints the accuracy
    assert known["sites"].default == "**"
    shared = [name for name in given if name in known]
    assert {name: given[name] for name in shared} == {name: known[name].default for name in shared}


def test_the_plan_command_takes_all_that_decides_what_is_captured() -> None:
    on_capture = options("capture").keys() - WRITING - {"device"}
    assert options("plan").keys() == on_capture | {"json"}
