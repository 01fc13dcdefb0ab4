from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import probekit
from probekit import plugins
from probekit.errors import PluginError
from tests import processes

THINGS = "probekit.things"  # a group of the tests' own, whose plugins import nothing slow

LIST = f"""
import warnings
import probekit
from probekit import plugins
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    loaded = plugins.load_all({THINGS!r})
for plugin, value in loaded.items():
    print(plugin.name, plugin.distribution, plugin.version, value.__name__)
for each in caught:
    print(each.category.__name__, each.message)
"""

LOAD = f"""
import sys
from probekit import errors, plugins
try:
    plugins.load({THINGS!r}, sys.argv[1])
except errors.PluginError as error:
    print(repr(error.__cause__), error)
"""

BROKEN = {
    "absent": "import no_such_module",
    "angry": "raise RuntimeError('out of order')",
    "hasty": "raise SystemExit(3)",
    "hollow": "",
}

CLI = "from probekit.cli import main; main()"

RANGE_METRIC = '''
import probekit as pk

@pk.metric
def value_range(x):
    """The largest value less the smallest."""
    return x[-1] - x[0]
'''


def builtin_metrics() -> set[str]:
    return {name for name, plugin in plugins.find(plugins.METRICS).items() if plugin.distribution == "probekit-torch"}


def test_the_built_in_metrics_and_recipes_are_plugins_of_probekit() -> None:
    assert {"mean", "median", "std", "sparsity", "histogram", "overlap"} <= builtin_metrics()
    assert plugins.find(plugins.RECIPES)["relu-vs-sigmoid"].distribution == "probekit-torch"


def test_find_sorts_by_name() -> None:
    names = list(plugins.find(plugins.METRICS))
    assert names == sorted(names)


def test_find_imports_no_plugin(python: Callable[..., Any], distribution: Callable[..., Path]) -> None:
    folder = distribution("loud", plugins.METRICS, {"loud": "loud:metric"}, {"loud": "raise SystemExit('imported')"})
    code = "from probekit import plugins; print(plugins.find(plugins.METRICS)['loud'])"
    done = python(code, paths=(folder,))
    assert done.returncode == 0
    assert "distribution='loud', version='1.0'" in done.stdout


def test_every_built_in_loads() -> None:
    loaded = {plugin.name for plugin in plugins.load_all(plugins.METRICS)}
    assert builtin_metrics() <= loaded


@pytest.mark.slow
def test_the_command_line_lists_an_installed_metric_and_warns_of_a_broken_one(
    distribution: Callable[..., Path], tmp_path: Path
) -> None:
    entries = {"value-range": "tiny_metric:value_range"}
    tiny = distribution("tiny-metric", plugins.METRICS, entries, {"tiny_metric": RANGE_METRIC}, version="2.3")
    modules = {"cracked": "import no_such_module"}
    cracked = distribution("cracked", plugins.METRICS, {"mad": "cracked:mad"}, modules, version="0.7")
    done = processes.script(CLI, "metrics", "--json", paths=(tiny, cracked), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["metric"]: row for row in json.loads(done.stdout)}
    assert rows.keys() == {*builtin_metrics(), "value-range"}
    assert rows["value-range"]["from"] == "tiny-metric 2.3"
    message = " ".join(done.stderr.split())
    assert "cracked 0.7" in message
    assert "No module named 'no_such_module'" in message


def test_broken_plugins_warn_and_stop_nobody_else(
    python: Callable[..., Any], distribution: Callable[..., Path]
) -> None:
    modules = {**BROKEN, "sound": "def thing(): pass"}
    folder = distribution("mixed", THINGS, {name: f"{name}:thing" for name in modules}, modules)
    done = python(LIST, paths=(folder,))
    assert done.returncode == 0, done.stderr
    listed, *warned = done.stdout.splitlines()
    assert listed == "sound mixed 1.0 thing"
    starts = [f"PluginWarning The thing {name!r} of mixed 1.0 can't be loaded" for name in BROKEN]
    assert [line.partition(":")[0] for line in warned] == starts


def test_a_broken_plugin_asked_for_by_name_is_an_error_with_its_cause(
    python: Callable[..., Any], distribution: Callable[..., Path]
) -> None:
    modules = {"cracked": "import no_such_module"}
    folder = distribution("cracked", THINGS, {"mad": "cracked:mad"}, modules, version="0.7")
    cause, message = python(LOAD, "mad", paths=(folder,)).stdout.split(" The ", 1)
    assert cause == """ModuleNotFoundError("No module named 'no_such_module'")"""
    assert "cracked 0.7" in message
    assert "'cracked:mad'" in message


def test_a_name_that_two_distributions_register_names_neither(
    python: Callable[..., Any], distribution: Callable[..., Path]
) -> None:
    def half(name: str) -> Path:
        entries = {"twin": f"{name}:twin", f"only-{name}": f"{name}:twin"}
        return distribution(name, THINGS, entries, {name: "def twin(): pass"})

    folders = (half("castor"), half("pollux"))
    *listed, warned = python(LIST, paths=folders).stdout.splitlines()
    assert listed == ["only-castor castor 1.0 twin", "only-pollux pollux 1.0 twin"]
    for output in (warned, python(LOAD, "twin", paths=folders).stdout):
        assert "castor 1.0 (castor:twin) and pollux 1.0 (pollux:twin)" in output


def test_a_distribution_seen_twice_is_one_plugin(
    python: Callable[..., Any], distribution: Callable[..., Path], tmp_path: Path
) -> None:
    # As the metadata of a checkout and those of its editable install are.
    folder = distribution("seen", THINGS, {"seen": "seen:thing"}, {"seen": "def thing(): pass"})
    again = tmp_path / "again"
    for each in folder.glob("*.dist-info"):
        shutil.copytree(each, again / each.name)
    code = f"from probekit import plugins; print(plugins.find({THINGS!r})['seen'].rivals)"
    assert python(code, paths=(folder, again)).stdout.strip() == "()"


def test_a_distribution_without_metadata_is_in_nobodys_way(
    python: Callable[..., Any], distribution: Callable[..., Path]
) -> None:
    folder = distribution("half", THINGS, {"seen": "seen:thing"}, {"seen": "def thing(): pass"})
    for each in folder.glob("*.dist-info/METADATA"):
        each.unlink()
    done = python(LIST, paths=(folder,))
    assert done.stdout.split("\n")[0] == "seen a distribution without metadata of no version thing"
    code = "from probekit import plugins; print(plugins.load(plugins.METRICS, 'median'))"
    assert python(code, paths=(folder,)).returncode == 0


def test_an_unknown_name_gets_near_matches_and_the_command_that_lists() -> None:
    with pytest.raises(PluginError) as raised:
        plugins.load(plugins.METRICS, "medain")
    message = str(raised.value)
    assert f"among the {len(plugins.find(plugins.METRICS))} that are installed" in message
    assert "'median'" in message
    assert "`probekit metrics`" in message


def test_an_unknown_recipe_is_said_to_be_a_recipe() -> None:
    with pytest.raises(PluginError, match=r"No recipe 'relu-vs-sigmod'.*Near: 'relu-vs-sigmoid'.*`probekit recipes`"):
        plugins.load(plugins.RECIPES, "relu-vs-sigmod")


def test_source_that_is_not_installed_says_so() -> None:
    with pytest.raises(PluginError, match="pip install -e"):
        plugins.load("probekit.nothings", "anything")


SENTENCE = (
    "Another project's distribution, probekit 0.4.0, is installed beside probekit-torch {version}, and each overwrites "
    "files of the other: uninstall both (`pip uninstall probekit probekit-torch`), then install probekit-torch again."
)


@pytest.fixture
def namesake(distribution: Callable[..., Path]) -> Path:
    """Where the metadata of another project's distribution lie that is named probekit."""
    return distribution("probekit", THINGS, {"steering": "steering:vector"}, {"steering": ""}, version="0.4.0")


def test_the_library_says_once_that_another_project_is_installed_too(
    python: Callable[..., Any], namesake: Path
) -> None:
    done = python("import probekit; probekit.errors, probekit.progress", paths=(namesake,))
    assert done.returncode == 0
    first, *_ = done.stderr.splitlines()
    assert first == f"<string>:1: InstallationWarning: {SENTENCE.format(version=probekit.__version__)}"
    assert done.stderr.count("InstallationWarning") == 1


def test_importing_the_library_says_nothing_yet(python: Callable[..., Any], namesake: Path) -> None:
    assert python("import probekit", paths=(namesake,)).stderr == ""


@pytest.mark.slow
def test_the_command_line_says_once_that_another_project_is_installed_too(
    python: Callable[..., Any], namesake: Path
) -> None:
    done = python(CLI, "verify", "nowhere.zarr", paths=(namesake,))
    warned, failed = done.stderr.splitlines()
    assert warned == f"Warning: {SENTENCE.format(version=probekit.__version__)}"
    assert failed.startswith("Error: ")


def test_nothing_is_said_of_a_distribution_of_a_like_name(
    python: Callable[..., Any], distribution: Callable[..., Path]
) -> None:
    folder = distribution("probekit-things", THINGS, {"a": "a_thing:a"}, {"a_thing": ""})
    assert python("import probekit; probekit.errors", paths=(folder,)).stderr == ""
