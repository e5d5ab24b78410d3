"""Code from outside, as a new user brings it: a folder of one's own, written by `dmq new`, and a package with an entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dmq_cli
from dmq_cli import paths
from dmq_cli.cli.commands.new import kinds
from dmq_cli.errors import ConfigError
from dmq_cli.overrides import own_folder
from dmq_cli.paths import choice_files, conf_folder, importing, with_own
from dmq_cli.stages.plugins import import_plugins
from tests.chain import dmq
from tests.tiny import one_sentence

KINDS = {"method": "own_shift", "calib": "own_calls", "metric": "own_gap", "family": "own_unet"}
CHOSEN = [
    "method=own_shift",
    "calib=own_calls",
    "+metric@protocol.metrics.own_gap=own_gap",
]  # a family is chosen by its folder
PROGRAM = "import sys\nfrom dmq_cli.cli.app import main\nsys.exit(main())\n"  # as the one that is installed


def test_every_kind_is_tried() -> None:
    assert set(kinds()) == set(KINDS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An otherwise empty folder in which `dmq new` wrote one of every kind."""
    place = tmp_path_factory.mktemp("empty")
    for kind, name in KINDS.items():
        result = dmq("new", kind, name, "--into", str(place / "mine"), "--json")
        assert result.code == 0 and len(json.loads(result.out)["files"]) >= 3, result.err
    return place


def ran(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(dmq_cli.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_is_written_passes_its_own_test(written: Path) -> None:
    out = ran(written, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "mine")
    assert "7 passed" in out


PLAN = ["plan", "evaluate", *CHOSEN, "--json", "--config-dir", "mine"]


def check_plan(out: str) -> None:
    rows = {row["stage"]: row for row in json.loads(out)["plan"]}
    assert rows["correct"]["work"] == 2 * 128 * 10 and rows["calibrate"]["work"] == 128 * 4


def test_what_is_written_is_planned_from_an_empty_folder(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    check_plan(dmq(*PLAN).out)


@pytest.mark.slow
def test_what_is_written_is_planned_by_the_program(written: Path, tmp_path: Path) -> None:
    (tmp_path / "dmq").write_text(PROGRAM, encoding="utf-8")
    check_plan(ran(written, sys.executable, str(tmp_path / "dmq"), *PLAN))


@pytest.mark.parametrize("where", ["first", "after the verb", "last", "with ="])
def test_the_folder_may_be_named_anywhere(where: str, written: Path, tmp_path: Path) -> None:
    flag = [f"--config-dir={written / 'mine'}"] if where == "with =" else ["--config-dir", str(written / "mine")]
    rest = [f"method={KINDS['method']}", f"calib={KINDS['calib']}", f"runtime.outputs={tmp_path}", "--json"]
    verb = ["plan", "calibrate"]
    line = {"first": [*flag, *verb, *rest], "after the verb": [*verb, *flag, *rest]}.get(where, [*verb, *rest, *flag])
    result = dmq(*line)
    assert result.code == 0 and len(json.loads(result.out)["plan"]) == 3, result.err


def test_lists_have_what_is_in_the_folder(written: Path) -> None:
    methods = json.loads(dmq("list", "methods", "--json", "--config-dir", str(written / "mine")).out)["methods"]
    method = {row["name"]: row for row in methods}[KINDS["method"]]
    assert method["groups"]["correct"] == KINDS["method"]
    without = json.loads(dmq("list", "methods", "--json").out)["methods"]
    assert len(without) == len(methods) - 1


def test_an_interface_is_checked_before_any_work(written: Path, tmp_path: Path) -> None:
    (tmp_path / "correct").mkdir()
    (tmp_path / "correct" / "half.yaml").write_text("_target_: half_made.Half\nseeds: 2000000-2000001\n", "utf-8")
    (tmp_path / "half_made.py").write_text("class Half:\n    def __init__(self, seeds): self.seeds = seeds\n", "utf-8")
    outputs = tmp_path / "out"
    result = dmq("sample", "correct=half", f"runtime.outputs={outputs}", "--config-dir", str(tmp_path))
    assert result.code == 2 and "needs check(eta)" in result.sentence and "cost(calls)" in result.sentence
    assert not (outputs / "artifacts").exists()


def test_code_in_the_working_folder_is_found_after_everything_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise RuntimeError\n", encoding="utf-8")
    (tmp_path / "own_found_here.py").write_text("X = 1\n", encoding="utf-8")
    before = list(sys.path)
    with with_own(tmp_path / ".."), importing():
        assert sys.path[: len(before)] == before and str(tmp_path) in sys.path[len(before) :]
        import own_found_here  # type: ignore[import-not-found]

        assert own_found_here.X == 1
    assert sys.path == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["new", "methodd", "a"], "There is no template of methodd. Did you mean method?"),
        (["new", "method", "My-Method"], "use small letters, digits and _"),
        (["new", "method", "tac"], "There is a method tac already"),
        (["new", "method", "json"], "A Python module json is installed already"),
        (["list", "methods", "--config-dir", "/not/there"], "--config-dir /not/there was given, but there is no such folder"),
        (["plan", "evaluate", "--config-dir=/not/there"], "--config-dir /not/there was given, but there is no such folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    into = ["--into", str(tmp_path / "mine")] if words[0] == "new" else []
    result = dmq(*words, *into)
    assert result.code == 2 and sentence in result.sentence and not (tmp_path / "mine").exists()


def test_nothing_is_replaced(written: Path) -> None:
    result = dmq("new", "method", KINDS["method"], "--into", str(written / "mine"))
    assert result.code == 2 and "exists already" in result.sentence


def test_the_flag_is_taken_out_wherever_it_is() -> None:
    assert own_folder(["a", "--config-dir", "b", "-q"]) == ("b", ["a", "-q"])
    assert own_folder(["-cd=x", "a", "--config-dir=y"]) == ("y", ["a"])
    assert own_folder(["a", "--config-dir"]) == (None, ["a", "--config-dir"])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that names itself as a plugin: its code, its conf/ and what an installer writes."""
    home = tmp_path / "site"
    (home / "own_package" / "conf" / "bits").mkdir(parents=True)
    (home / "own_package" / "__init__.py").write_text("ran = True\n", encoding="utf-8")
    (home / "own_package" / "conf" / "bits" / "w7a9.yaml").write_text(
        (conf_folder() / "bits" / "w4a4.yaml").read_text(encoding="utf-8").replace("4", "5"), encoding="utf-8"
    )
    info = home / "own_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[dmq.plugins]\nmine = own_package\n", encoding="utf-8")
    monkeypatch.syspath_prepend(home)
    paths.plugins.cache_clear()
    yield home
    paths.plugins.cache_clear()
    sys.modules.pop("own_package", None)


def test_a_package_adds_choices_and_is_imported_before_a_job(package: Path, tmp_path: Path) -> None:
    assert choice_files("bits")["w7a9"] == package / "own_package" / "conf" / "bits" / "w7a9.yaml"
    assert "own_package" not in sys.modules
    result = dmq("plan", "calibrate", "bits=w7a9", f"runtime.outputs={tmp_path / 'out'}", "--json")
    assert result.code == 0 and sys.modules["own_package"].ran, result.err
    plain = dmq("plan", "calibrate", "bits=w4a4", f"runtime.outputs={tmp_path / 'out'}", "--json")
    keys = [{row["stage"]: row["key"] for row in json.loads(run.out)["plan"]} for run in (result, plain)]
    assert keys[0]["calibset"] == keys[1]["calibset"] and keys[0]["calibrate"] != keys[1]["calibrate"]


def test_a_package_that_lost_its_module_is_named(package: Path) -> None:
    (package / "own_package-1.0.dist-info" / "entry_points.txt").write_text("[dmq.plugins]\nmine = gone\n", "utf-8")
    with pytest.raises(ConfigError, match="The plugin mine names the module gone, which is not there") as caught:
        paths.plugins()
    one_sentence(caught.value)


def test_a_module_of_the_own_folder_is_imported_before_a_job(tmp_path: Path) -> None:
    sys.modules.pop("dmq_plugin", None)  # of the folder of another test
    (tmp_path / "dmq_plugin.py").write_text("import own_registered\n", encoding="utf-8")
    (tmp_path / "own_registered.py").write_text("X = 1\n", encoding="utf-8")
    with with_own(tmp_path):
        import_plugins()
    assert sys.modules.pop("own_registered").X == 1 and sys.modules.pop("dmq_plugin")
    (tmp_path / "dmq_plugin.py").write_text("1 / 0\n", encoding="utf-8")
    with with_own(tmp_path), pytest.raises(ConfigError, match="dmq_plugin raises ZeroDivisionError") as caught:
        import_plugins()
    one_sentence(caught.value)
