"""The docs name every command, option, metric, recipe and extra, and say of them what the code says."""

import ast
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from docs import command_line, notebooks
from probekit import plugins
from probekit._accessor import Accessor
from probekit.metrics import Headline

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
COMMANDS = {path: (command, context) for path, command, context in command_line.commands()}


def own(group):
    return {name: each for name, each in plugins.find(group).items() if each.distribution == "probekit-torch"}


def rows_of_metrics():
    """The cells of each row of docs/which-metric.md, by the metric that it names."""
    tables = re.findall(r"^\| question .*\n\|-.*\n((?:\| .*\n)+)", (DOCS / "which-metric.md").read_text(), re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for table in tables for line in table.splitlines()]
    return [(row[1].strip("`"), row) for row in cells]


def test_each_metric_has_one_question():
    assert sorted(name for name, _ in rows_of_metrics()) == sorted(own(plugins.METRICS))


@pytest.mark.parametrize(("name", "row"), rows_of_metrics())
def test_a_metric_is_read_as_its_headline_says(name, row):
    question, _, reading, beside, unless = row
    assert question.endswith("?")
    assert all((reading, beside, unless))
    headline: Headline | None = getattr(plugins.load(plugins.METRICS, name), "headline", None)
    if headline is None:
        assert reading.startswith("No single number.")
        return
    assert reading.startswith(f"Large: {headline.large}")
    says_nothing = None if headline.neutral is None else f" {headline.neutral:g} says nothing"
    assert says_nothing in reading if says_nothing else "says nothing" not in reading
    assert headline.beside is None or f"`{headline.beside}`" in beside


def test_the_page_of_the_command_line_is_what_the_commands_say():
    assert command_line.page() == command_line.PAGE.read_text(), "run `make readme`"


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_says_what_it_and_its_options_do(path):
    command, _ = COMMANDS[path]
    assert command.help
    assert [each.name for each in command.params if not each.help] == []


@pytest.mark.parametrize("path", COMMANDS)
def test_the_examples_of_a_command_are_commands(path):
    section = command_line.PAGE.read_text().split(f"## `{path}`\n")[1].partition("\n## ")[0]
    examples = re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].splitlines()
    assert examples
    root = typer.main.get_command(command_line.app)
    for line in examples:
        command, words = root, shlex.split(line)[1:]
        context = typer.Context(root, info_name="probekit")
        while hasattr(command, "list_commands"):
            command = command.get_command(context, words.pop(0))
        command.make_context("example", words)  # raises where an option isn't there or an argument is missing


def test_every_command_is_reached_from_the_readme_or_a_page():
    text = README + "".join(page.read_text() for page in DOCS.glob("*.md") if page != command_line.PAGE)
    assert [path for path in COMMANDS if not re.search(rf"{path}\b", re.sub(" +", " ", text))] == []


@pytest.mark.parametrize("recipe", own(plugins.RECIPES))
def test_a_recipe_is_in_the_readme_and_has_its_options_described(recipe):
    assert f"probekit run {recipe}" in README
    assert f"probekit run {recipe}" in COMMANDS


def test_the_accessor_is_described_whole():
    reference = (DOCS / "reference.md").read_text()
    section = reference.split("## On xarray's trees, datasets and arrays")[1].partition("\n## ")[0]
    public = [name for name in vars(Accessor) if not name.startswith("_")]
    assert public
    assert [name for name in public if f"`{name}`" not in section] == []


@pytest.mark.parametrize("name", notebooks.STUDIES)
def test_a_study_is_a_notebook_with_the_same_code(name, tmp_path):
    page = (DOCS / f"{name}.md").read_text()
    [made] = [json.loads(file.read_text()) for file in notebooks.write(tmp_path) if file.stem == name]
    code = ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]
    text = "\n".join("".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "markdown")
    assert len(code) == page.count("```{code-cell}") + 1
    for cell in code[1:]:
        ast.parse(cell)
        assert cell in page
    assert text.startswith("# ")
    assert not re.search(r"\{\w+\}`|\.md\)|^```\{|^:tags", text, re.MULTILINE)
    assert all(f"\n## {heading}\n" in f"{text}\n" for heading in re.findall(r"^## (.+)$", page, re.MULTILINE))


def test_every_extra_is_named():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = README + "".join(page.read_text() for page in DOCS.glob("*.md"))
    for_users = set(extras) - {"test", "bench", "docs"}
    assert [
        extra for extra in sorted(for_users) if not re.search(rf"[\[,(`]{extra}[\],`)]|extra {extra}\b", text)
    ] == []
