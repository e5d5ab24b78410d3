"""What a user meets: help, flags, errors as one sentence with a stable exit code, completion, the plan."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import dmq_cli
from dmq_cli import choices
from dmq_cli.cli.app import main
from dmq_cli.overrides import as_hydra
from dmq_cli.paths import conf_folder
from tests.chain import IMAGES, QUICK, STEPS, artifacts, counting, dmq, tiny_folder, words
from tests.tiny import SMALL

VERBS = ["calibrate", "reconstruct", "correct", "sample", "evaluate"]
METHODS = sorted(path.stem for path in (conf_folder() / "method").glob("*.yaml"))
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny", **SMALL)


@pytest.fixture(scope="module")
def filled(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder in which `evaluate method=minmax` is finished."""
    outputs = tmp_path_factory.mktemp("filled")
    assert dmq(*words("evaluate", model, outputs)).code == 0
    return outputs


def test_help_lists_the_verbs() -> None:
    for flag in ("--help", "-h"):
        result = dmq(flag)
        assert result.code == 0 and result.err == ""
        assert all(
            re.search(rf"^  {verb} ", result.out, re.M)
            for verb in [*VERBS, "plan", "train", "list", "import", "doctor", "fetch", "clean"]
        )
    groups = dmq("evaluate", "--help")
    assert groups.code == 0 and all(re.search(rf"[ ,]{name}[,\n]", groups.out) for name in METHODS)
    assert "# one range, or several disjoint ones" in groups.out, "the configuration with its comments"


def test_version_before_and_after_the_verb() -> None:
    for arguments in (["--version"], ["evaluate", "--version"], ["plan", "sample", "--version"]):
        result = dmq(*arguments)
        assert (result.code, result.out) == (0, f"dmq, version {dmq_cli.__version__}\n")


def test_an_unknown_verb() -> None:
    for arguments in (["evaluat"], ["plan", "evaluat"]):
        result = dmq(*arguments)
        assert result.code == 2 and "evaluate" in result.sentence
    assert dmq("plan").code == 2


def test_quiet_verbose_and_json_before_and_after_the_verb(model: Path, filled: Path) -> None:
    command = words("evaluate", model, filled)
    plain = dmq(*command)
    assert "FD-digits" in plain.out and "evaluate: tiny minmax w4a8" in plain.err
    for flag in ("-q", "--quiet"):
        for result in (dmq(flag, *command), dmq(*command, flag)):
            assert (result.code, result.out, result.err) == (0, "", "")
    for flag in ("-v", "--verbose"):
        for result in (dmq(flag, *command), dmq(*command, flag)):
            assert "from the cache" in result.err and "FD-digits" in result.out
    reports = [json.loads(result.out) for result in (dmq("--json", *command), dmq(*command, "--json"))]
    assert all(report["num_images"] == IMAGES and report["method"] == "minmax" for report in reports)


def test_an_error_as_json() -> None:
    result = dmq("evaluate", "method=tacc", "--json")
    assert json.loads(result.out) == {"error": result.sentence, "exit_code": 2}


@pytest.mark.parametrize("stage", ["calibset", "calibrate", "sample_fp", "evaluate"])
def test_an_altered_artifact_and_force(stage: str, model: Path, filled: Path) -> None:
    command = words("evaluate", model, filled)
    (folder,) = [path for path in (filled / "artifacts" / stage).iterdir() if path.name[0] != "."]
    victim = max((p for p in folder.iterdir() if p.name != "manifest.json"), key=lambda p: p.stat().st_size)
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-7])
    result = dmq(*command)
    assert result.code == 1 and str(folder) in result.sentence and victim.name in result.sentence
    assert f"runtime.force=[{stage}]" in result.sentence
    with counting() as ran:
        assert dmq(*command, f"runtime.force=[{stage}]").code == 0
    assert ran == [stage]
    assert victim.read_bytes() == whole or stage == "evaluate"
    with counting() as ran:
        assert dmq(*command).code == 0
    assert ran == []


def test_upstream_require(model: Path, filled: Path) -> None:
    assert dmq(*words("evaluate", model, filled, "runtime.upstream=require")).code == 0
    result = dmq(*words("evaluate", model, filled, "runtime.upstream=require", "bits=w2a8"))
    assert result.code == 1 and "runtime.upstream=require" in result.sentence


def test_cfg_job_prints_the_configuration() -> None:
    result = dmq("evaluate", "method=tac", "bits=w3a8", "--cfg", "job")
    assert result.code == 0 and "stage: evaluate" in result.out and "name: w3a8" in result.out
    assert "_target_: dmq_cli.correct.Tac" in result.out


def test_a_path_as_model() -> None:
    assert as_hydra(["model=ddim_digits", "seeds=0-9"]) == ["model=ddim_digits", "seeds=0-9"]
    assert as_hydra(["model=/a/my net"]) == [
        "model=folder",
        "model.path='/a/my net'",
        "model.name='my_net'",
    ]
    here = str(Path.cwd())
    assert as_hydra(["model=./x"])[1] == f"model.path='{here}/x'"
    assert as_hydra(["model=~/x"])[1] == f"model.path='{Path.home()}/x'"


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "it's, a=model (1)", **SMALL)
    result = dmq(*words("calibrate", folder, tmp_path / "out"))
    assert result.code == 0, result.err
    config = json.loads(next(tmp_path.glob("out/runs/calibrate/*/config.json")).read_text(encoding="utf-8"))
    assert config["model"]["path"] == str(folder)


def test_outputs_with_odd_characters_and_own_choices_before_overrides(model: Path, tmp_path: Path) -> None:
    config_dir = tmp_path / "mine"
    (config_dir / "bits").mkdir(parents=True)
    widths = "weight: 5\nact: 5\nprob: ${.act}\nedge_weight: 8\nedge_act: 8\n"
    (config_dir / "bits" / "ours.yaml").write_text(f"name: ours\n{widths}", encoding="utf-8")
    outputs = tmp_path / 'aus é=(gabe) #1, {"x"} $y ${z}'
    verb, *rest = words("calibrate", model, outputs, "bits=ours")
    assert dmq(verb, "--config-dir", str(config_dir), *rest).code == 0
    (folder,) = outputs.glob("runs/calibrate/*")
    manifest, config = (json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in ("manifest", "config"))
    again = shlex.split(manifest["command"])[1:]
    assert config["bits"]["name"] == "w5a5" and "--config-dir" in again
    with counting() as ran:
        assert dmq(*again).code == 0, "the recorded command can be given again"
    assert ran == [] and len(list(outputs.glob("runs/calibrate/*"))) == 2
    for command in (
        ["sample", "--cfg", "job", "bits=w3a8", "-p", "bits"],
        ["plan", "-c", "job", "sample", "bits=w3a8"],
    ):
        result = dmq(*command)
        assert result.code == 0 and "name: w3a8" in result.out
    assert "Hydra" in dmq("sample", "--hydra-help").out


def test_a_sweep_over_folders(model: Path, tmp_path: Path) -> None:
    other = tiny_folder(tmp_path / "b, c", **SMALL)
    verb, _, *rest = words("calibrate", model, tmp_path / "out")
    result = dmq(verb, "-m", f"model={model},'{other}'", *rest)
    assert result.code == 0, result.err
    configs = [
        json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("out/runs/calibrate/*/config.json")
    ]
    assert {config["model"]["path"] for config in configs} == {str(model), str(other)} and len(configs) == 2


def test_a_result_is_called_after_what_was_done(model: Path, filled: Path, tmp_path: Path) -> None:
    command = words("evaluate", model, filled, "bits.weight=5", "calib.num_steps=2", "table.name=mine")
    plain = dmq(*command)
    name = next(line for line in plain.out.splitlines() if line.startswith("tiny "))
    assert (
        name.startswith("tiny minmax w5a8 (")
        and "calib.num_steps=2" in name
        and "seeds=0" not in name.partition(")")[0]
    )
    (cell,) = (filled / "tables" / "mine").iterdir()
    metrics = json.loads((cell / "metrics.json").read_text(encoding="utf-8"))
    assert cell.name.startswith("tiny-minmax-w5a8-") and metrics["bits"] == "w5a8"
    assert {"calib.num_steps=2", f"sampler.num_inference_steps={STEPS}"} <= set(metrics["overrides"])
    rows = json.loads(dmq("list", "runs", "bits=w5a8", f"runtime.outputs={filled}", "--json").out)["runs"]
    assert [row["overrides"] for row in rows] == [metrics["overrides"]] and rows[0]["images"] == IMAGES


def test_multirun_may_stand_anywhere_and_a_failing_job_is_one_sentence(model: Path, filled: Path) -> None:
    base = words("evaluate", model, filled)
    for command in (
        [base[0], "-m", *base[1:], "bits=w4a8,w8a8"],
        [*base, "-m", "bits=w4a8,w8a8"],
        [*base, "bits=w4a8,w8a8", "--multirun"],
    ):
        result = dmq(*command)
        assert result.code == 0 and result.out.count("FD-digits") == 2, result.err
    result = dmq(*base, "-m", "bits.weight=0,4")
    assert result.code == 1 and "0 bits" in result.sentence
    assert result.out.count("FD-digits") == 1, "the other job was done"


def test_list_methods() -> None:
    result = dmq("list", "methods")
    lines = result.out.splitlines()
    assert (result.code, result.err) == (0, "") and [line.split()[0] for line in lines] == METHODS
    assert len({line.index(" scheme=") for line in lines}) == 1, "aligned"
    (tac,) = [line for line in lines if line.startswith("tac ")]
    groups = ["calib=uniform", "transform=none", "scheme=qdiffusion", "recon=brecq", "correct=tac"]
    assert tac.split()[1:6] == groups and tac.endswith("ECCV 2024, arXiv:2407.03917")
    for flag in ("-q", "--quiet"):
        assert dmq("list", "methods", flag).out == dmq(flag, "list", "methods").out == ""


def test_list_methods_as_json() -> None:
    for arguments in (["list", "methods", "--json"], ["--json", "list", "methods"]):
        result = dmq(*arguments)
        (qdiffusion,) = [row for row in json.loads(result.out)["methods"] if row["name"] == "qdiffusion"]
        chosen = {"calib": "uniform", "transform": "none", "scheme": "qdiffusion", "recon": "brecq", "correct": "none"}
        assert result.code == 0 and qdiffusion["groups"] == chosen and "ICCV 2023" in qdiffusion["cite"]


def test_list_models() -> None:
    models = {row["name"]: row for row in json.loads(dmq("list", "models", "--json").out)["models"]}
    assert models["ddim_digits"]["present"] and "handwritten digits" in models["ddim_digits"]["about"]
    lines = dmq("list", "models").out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(models) and "folder" not in models
    assert len({re.search(r"present |missing ", line).start() for line in lines}) == 1  # type: ignore[union-attr]


def test_list_metrics() -> None:
    metrics = {row["name"]: row for row in json.loads(dmq("list", "metrics", "--json").out)["metrics"]}
    assert set(metrics) == set(choices.names("metric"))
    assert (metrics["fd"]["arrow"], metrics["fd"]["needs"]) == ("↓", ["real images"])
    assert (metrics["psnr"]["arrow"], metrics["psnr"]["needs"]) == ("↑", ["full-precision images"])
    assert metrics["clip_score"]["needs"] == ["prompts", "protocol.clip_path"]
    (line,) = dmq("list", "metrics", "needs=full-precision images", "name=fd*").out.splitlines()
    assert line.startswith("fd_to_twin  ↓  full-precision images")


def test_a_list_of_something_else() -> None:
    result = dmq("list", "method")
    assert result.code == 2
    assert result.sentence == (
        "There is no list of method. Did you mean methods?"
        " There is: artifacts, methods, metrics, models, protocols, runs, tables."
    )
    assert json.loads(dmq("list", "bits", "--json").out)["exit_code"] == 2
    assert dmq("list").code == 2


def test_listing_needs_no_torch() -> None:
    code = (
        "import sys; from dmq_cli.cli.app import main\n"
        "try: main(['list', 'methods'])\n"
        "except SystemExit as end: print('exit', end.code, sorted({'torch', 'hydra', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "exit 0 []"


def test_plan(model: Path, filled: Path, tmp_path: Path) -> None:
    with counting() as ran:
        fresh, done = (
            dmq("plan", *words("evaluate", model, tmp_path)),
            dmq("plan", *words("evaluate", model, filled)),
        )
        other = dmq("plan", *words("evaluate", model, filled, "method=qdiffusion", "bits=w2a8", *QUICK))
    assert ran == [] and not list(filled.glob("runs/plan")) and artifacts(tmp_path) == {}
    stages = ["sample_fp", "evaluate_fp", "calibset", "transform", "calibrate", "targets", "reconstruct"]
    stages += ["correct", "sample", "evaluate"]
    for result in (fresh, done, other):
        assert result.code == 0
        assert [line.split()[0] for line in result.out.splitlines()[1:11]] == stages
    assert all("to compute" in line and " s " in line for line in fresh.out.splitlines()[1:11])
    assert fresh.out.count("never computed here") == 10
    assert done.out.count(" cached ") == 10 and "to compute" not in done.out
    assert other.out.count(" cached ") == 4 and "differs in scheme" in other.out
    forced = dmq("plan", *words("evaluate", model, filled, "runtime.force=[calibrate]"))
    assert [line.split()[0] for line in forced.out.splitlines() if "forced" in line] == ["calibrate"]
    assert dmq("plan", *words("calibrate", model, filled)).out.count("\n") <= 6
    rows = json.loads(dmq("plan", *words("evaluate", model, filled), "--json").out)["plan"]
    assert [row["cached"] for row in rows] == [True] * 10


def test_the_command_is_what_the_package_installs() -> None:
    from importlib.metadata import entry_points

    (script,) = [point for point in entry_points(group="console_scripts") if point.name == "dmq"]
    assert script.load() is main


def test_a_table_by_name() -> None:
    parts = [f"digits_ptq{part}" for part in ("", "__corrected", "__others", "__released")]
    assert choices.table_parts("digits_ptq") == parts
    result = dmq("table", "digits_pt")
    assert result.code == 2 and "Did you mean" in result.sentence and "digits_ptq" in result.sentence
    assert "dmq table NAME" in dmq("table", "--help").out
