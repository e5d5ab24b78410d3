"""Keys and the cache: what makes a stage run again and what does not."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmq_cli.errors import ArtifactCorruptError, ArtifactError
from dmq_cli.metrics import flat
from dmq_cli.results.later import without_later
from dmq_cli.stages import build
from dmq_cli.stages.graph import Graph, Node, Task, identity, with_code
from dmq_cli.stages.nodes import NODES, versions
from dmq_cli.stages.plan import plan
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.store import ArtifactStore, digest, integrity
from tests.chain import FEW, tiny_folder
from tests.test_conf import composed

Config = dict[str, Any]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tiny_folder(tmp_path_factory.mktemp("model") / "tiny")
    words = [word for word in FEW if not word.startswith("runtime")]
    return prepare(
        composed("model=folder", f"model.path={folder}", "model.name=tiny", "method=tac", "train=ddim_digits", *words)
    )


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return Graph(NODES, ArtifactStore(tmp_path), Progress(quiet=True))


def keys(graph: Graph, config: Config) -> dict[str, str]:
    return {name: graph.key(name, config) for name in NODES}


def changed(graph: Graph, config: Config, edit: Callable[[Config], object]) -> set[str]:
    """The stages whose keys an edit of the configuration changes."""
    other = copy.deepcopy(config)
    edit(other)
    before, after = keys(graph, config), keys(graph, other)
    return {name for name in NODES if before[name] != after[name]}


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all plain values below a section."""
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))]
    if isinstance(node, list) and node:
        return [leaf for index, value in enumerate(node) for leaf in leaves(value, (*path, index))]
    return [path]


def other_value(config: Config, path: tuple[Any, ...]) -> Config:
    """A copy in which one plain value is another one."""
    altered = copy.deepcopy(config)
    node: Any = altered
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = f"not {node[path[-1]]}"
    return altered


def test_every_field_that_is_read_is_in_the_key(graph: Graph, config: Config) -> None:
    labels = {"name", "cite", "path", "about", "sampling", "extractor_path", "reference_path"}
    labels |= {"dinov2_path", "clip_path", "lpips_path"}
    before, swept = keys(graph, config), 0
    for node in NODES.values():
        for section in node.reads:
            for path in leaves(config[section], (section,)):
                after = graph.key(node.name, other_value(config, path))
                is_label = bool(labels & set(path[1:]))
                assert (after == before[node.name]) == is_label, (node.name, path)
                swept += 1
    assert swept >= 150


def test_numerics_are_in_the_key_only_where_they_are_not_the_default(graph: Graph, config: Config) -> None:
    def without(name: str) -> str:
        node = NODES[name]
        sections = {**config, "protocol": flat(config["protocol"])}
        read = {section: identity(without_later(sections[section])) for section in node.reads}
        return digest([name, node.version_for(config), read, [without(need) for need in node.needs_for(config)]])

    assert "numerics" not in config
    assert keys(graph, config) == {name: without(name) for name in NODES}
    other = prepare({**config, "numerics": composed("numerics=bf16")["numerics"]})
    again = prepare({**config, "numerics": composed("numerics=bf16", "numerics.dtype=float32")["numerics"]})
    assert other["numerics"]["dtype"] == "bfloat16" and again["numerics"]["channels_last"]
    sampling = [keys(graph, variant)["sample_fp"] for variant in (config, other, again)]
    assert len(set(sampling)) == 3


def test_nothing_else_is(graph: Graph, config: Config) -> None:
    read = {section for node in NODES.values() for section in node.reads}
    names = {"method", "bits", "budget"}
    assert names <= {name for name in read if not any(name in NODES[stage].reads for stage in set(NODES) - {"export"})}
    before, swept = keys(graph, config), 0
    for section in set(config) - read:
        for path in leaves(config[section], (section,)):
            assert keys(graph, other_value(config, path)) == before, path
            swept += 1
    assert {"runtime", "stage", "table", "train"} <= set(config) - read
    assert swept >= 20


def test_bits_leave_what_does_not_depend_on_them(graph: Graph, config: Config) -> None:
    def fewer(made: Config) -> None:
        made["scheme"]["rules"][1]["bits"] = 2

    assert changed(graph, config, fewer) == {
        "calibrate",
        "reconstruct",
        "correct",
        "sample",
        "trace",
        "evaluate",
        "export",
    }


@pytest.mark.parametrize(
    ("section", "stages"),
    [
        ("numerics", {"sample_fp", "sample", "evaluate_fp", "evaluate", "export"}),
        ("seeds", {"sample_fp", "sample", "evaluate_fp", "evaluate"}),
        ("to_uint8", {"sample_fp", "sample", "evaluate_fp", "trace", "evaluate", "export"}),
        ("trace", {"trace"}),
        ("protocol", {"evaluate_fp", "evaluate"}),
        ("measured_with", {"evaluate_fp", "evaluate"}),
        ("correct", {"correct", "sample", "trace", "evaluate", "export"}),
        ("recon", {"reconstruct", "correct", "sample", "trace", "evaluate", "export"}),
        ("recon_targets", {"targets", "reconstruct", "correct", "sample", "trace", "evaluate", "export"}),
        ("scheme", {"calibrate", "reconstruct", "correct", "sample", "trace", "evaluate", "export"}),
        ("policy", {"calibrate", "reconstruct", "correct", "sample", "trace", "evaluate", "export"}),
        ("transform", {"transform", "calibrate", "reconstruct", "correct", "sample", "trace", "evaluate", "export"}),
        ("calib", set(NODES) - {"sample_fp", "evaluate_fp", "training_set"}),
        ("calib_sampler", set(NODES) - {"sample_fp", "evaluate_fp", "training_set"}),
        ("sampler", {"correct", "sample_fp", "sample", "evaluate_fp", "trace", "evaluate", "export"}),
        ("model", set(NODES)),
    ],
)
def test_a_section_changes_what_rests_on_it(section: str, stages: set[str], graph: Graph, config: Config) -> None:
    assert (
        changed(
            graph, config, lambda made: made.update({section: {"a": "other"} if section == "protocol" else "other"})
        )
        == stages
    )


def test_the_model_is_known_by_its_bytes(graph: Graph, config: Config, tmp_path: Path) -> None:
    def prepared(path: Path) -> Config:
        section = {**config["model"], "path": str(path), "name": path.name}
        return prepare({**config, "model": section})

    same = prepared(tiny_folder(tmp_path / "elsewhere"))
    assert same["model"]["path"] != config["model"]["path"]
    assert keys(graph, same) == keys(graph, config)
    other = prepared(tiny_folder(tmp_path / "wider", block_out_channels=(8, 24)))
    assert not set(keys(graph, other).values()) & set(keys(graph, config).values())


def test_the_reference_is_known_by_its_bytes(config: Config, tmp_path: Path, graph: Graph) -> None:
    def prepared(name: str, value: int) -> Config:
        np.savez(tmp_path / name, arr_0=np.full((2, 16, 16, 1), value, dtype=np.uint8))
        protocol = {**config["protocol"], "reference": "mine", "reference_path": str(tmp_path / name)}
        return prepare({**config, "protocol": protocol})

    first, moved, other = prepared("a.npz", 1), prepared("b.npz", 1), prepared("a.npz", 2)
    assert keys(graph, first) == keys(graph, moved)
    assert graph.key("evaluate", first) != graph.key("evaluate", other)
    assert graph.key("sample", first) == graph.key("sample", other)


def backend(nodes: Mapping[str, Node], ran: list[str]) -> dict[str, Node]:
    """The nodes with one more, which a configuration with a section `backend` needs to sample."""

    def lower(task: Task) -> None:
        ran.append(task.config["backend"]["name_of"])
        (task.work / "exported").write_text("", encoding="utf-8")

    def needs(config: Mapping[str, Any]) -> tuple[str, ...]:
        return ("reconstruct", "correct", *(("lowered",) if "backend" in config else ()))

    sampling = replace(nodes["sample"], needs=needs, asks=("numerics", "backend"))
    return {**nodes, "sample": sampling, "lowered": Node("lowered", ("backend",), lower, ("reconstruct",))}


def test_a_stage_that_some_configurations_need_changes_no_key_of_the_others(config: Config, tmp_path: Path) -> None:
    before, more = Graph(NODES, ArtifactStore(tmp_path), Progress(quiet=True)), backend(NODES, [])
    after = Graph(more, ArtifactStore(tmp_path), Progress(quiet=True))
    assert keys(after, config) == keys(before, config)
    assert after.chain("evaluate", config) == before.chain("evaluate", config)
    assert prepare(config) == with_code(prepare(config), more.values())
    with_backend = {**config, "backend": {"name_of": "other"}}
    changed = {name for name in NODES if after.key(name, with_backend) != before.key(name, config)}
    assert changed == {"sample", "evaluate"} and "lowered" in after.chain("evaluate", with_backend)
    assert "lowered" not in after.chain("trace", with_backend)


def test_the_versions_in_the_name_of_a_job_are_those_of_what_it_rests_on(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = versions(config)
    assert set(before) == set(NODES) - {"training_set", "export"}
    for name, node in backend(NODES, []).items():
        monkeypatch.setitem(NODES, name, node)
    assert versions(config) == before and "lowered" in versions({**config, "backend": {}})


def test_a_stage_gets_what_it_needs_under_its_configuration(tmp_path: Path) -> None:
    inputs, ran = list[set[str]](), list[str]()
    nodes = toy(ran) | {"reconstruct": Node("reconstruct", ("a",), lambda task: None)}
    nodes["correct"] = replace(nodes["reconstruct"], name="correct")
    nodes["sample"] = Node("sample", ("a",), lambda task: inputs.append(set(task.inputs)))
    graph = Graph(backend(nodes, ran), ArtifactStore(tmp_path), Progress(quiet=True))
    for variant in (plain(1, 2), {**plain(1, 2), "backend": {"name_of": "mine"}}):
        graph.ensure("sample", variant)
    assert inputs == [{"reconstruct", "correct"}, {"reconstruct", "correct", "lowered"}] and ran == ["mine"]


def test_a_plan_makes_every_part_once(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, make = list[str](), build.make

    def counted(section: Mapping[str, Any]) -> Any:
        targets.append(section["_target_"])
        return make(section)

    monkeypatch.setattr(build, "make", counted)
    plan({**config, "runtime": {**config["runtime"], "outputs": str(tmp_path)}}, "correct")
    parts = [config[name] for name in ("calib", "transform", "scheme", "policy", "recon", "correct", "protocol")]
    assert sorted(targets) == sorted(
        [part["_target_"] for part in parts] + [config[name]["_target_"] for name in ("sampler", "calib_sampler")]
    )


def test_identity_drops_labels_at_any_depth() -> None:
    assert identity({"name": 1, "a": [{"path": 2, "b": 3}], "c": {"cite": 4}}) == {"a": [{"b": 3}], "c": {}}


def toy(ran: list[str]) -> dict[str, Node]:
    """Two stages that note that they ran; `late` reads a section it did not declare if it is told to."""

    def early(task: Task) -> None:
        ran.append("early")
        (task.work / "number").write_text(str(task.config["a"]), encoding="utf-8")

    def late(task: Task) -> None:
        ran.append("late")
        number = int((task.inputs["early"] / "number").read_text(encoding="utf-8"))
        (task.work / "sum").write_text(str(number + task.config["b"]), encoding="utf-8")
        if task.config["b"] < 0:
            raise RuntimeError(f"undeclared {task.config['a']}")

    return {"early": Node("early", ("a",), early), "late": Node("late", ("b",), late, ("early",))}


def plain(a: int, b: int, **runtime: Any) -> Config:
    return {
        "a": a,
        "b": b,
        "runtime": {"device": "cpu", "batch_size": 1, "force": [], "upstream": "ensure"} | runtime,
    }


def test_a_node_is_handed_what_it_declares_only(tmp_path: Path) -> None:
    graph = Graph(toy([]), ArtifactStore(tmp_path), Progress(quiet=True))
    with pytest.raises(KeyError, match="'a'"):
        graph.ensure("late", plain(1, -1))
    assert graph.store.keys("late") == [] and len(graph.store.keys("early")) == 1


def test_a_stage_runs_once_for_each_key(tmp_path: Path) -> None:
    ran: list[str] = []
    graph = Graph(toy(ran), ArtifactStore(tmp_path), Progress(quiet=True))
    for config in (plain(1, 2), plain(1, 2), plain(1, 3), plain(1, 2, batch_size=9, device="other")):
        folder = graph.ensure("late", config)
        assert (folder / "sum").read_text(encoding="utf-8") == str(1 + config["b"])
    assert ran == ["early", "late", "late"]
    assert graph.chain("late", plain(1, 2)) == ["early", "late"]
    graph.ensure("early", plain(5, 0))
    assert ran[3:] == ["early"]


def test_force_computes_again_once_even_below_a_finished_stage(tmp_path: Path) -> None:
    ran: list[str] = []
    for force, again in (([], ["early", "late"]), (["early"], ["early"]), (["late"], ["late"]), (["x"], [])):
        graph = Graph(toy(ran), ArtifactStore(tmp_path), Progress(quiet=True))
        ran.clear()
        for _ in range(2):
            graph.ensure("late", plain(1, 2, force=force))
        assert ran == again


def test_upstream_require_computes_the_asked_for_stage_only(tmp_path: Path) -> None:
    ran: list[str] = []
    graph = Graph(toy(ran), ArtifactStore(tmp_path), Progress(quiet=True))
    with pytest.raises(ArtifactError, match=r"late needs early .* run the stage early first\."):
        graph.ensure("late", plain(1, 2, upstream="require"))
    graph.ensure("early", plain(1, 2))
    graph.ensure("late", plain(1, 2, upstream="require"))
    assert ran == ["early", "late"]


@pytest.mark.parametrize("seen", [False, True])
def test_inputs_are_hashed_before_a_stage_computes_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    monkeypatch.setattr(integrity, "HASHED_BELOW", 0)  # as artifacts of 64 MB and more: not at every look
    ran: list[str] = []
    graph = Graph(toy(ran), ArtifactStore(tmp_path), Progress(quiet=True))
    file = graph.ensure("early", plain(1, 2)) / "number"
    graph.ensure("late", plain(1, 2)) if seen else monkeypatch.setattr(integrity, "_checked", {})
    before = file.stat()
    file.write_text("7", encoding="utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert graph.ensure("early", plain(1, 2)) == file.parent, "a look-up stays cheap"
    with pytest.raises(ArtifactCorruptError, match="its file number was altered"):
        graph.ensure("late", plain(1, 3))
    assert ran == (["early", "late"] if seen else ["early"]) and len(graph.store.keys("late")) == len(ran) - 1


def test_a_folder_of_somebody_elses_is_no_reason(tmp_path: Path) -> None:
    graph = Graph(toy([]), ArtifactStore(tmp_path), Progress(quiet=True))
    for name, content in (("notes", None), ("bad", "{"), ("list", "[]"), ("number", '{"config": 5}')):
        (tmp_path / "late" / name).mkdir(parents=True)
        if content is not None:
            (tmp_path / "late" / name / "manifest.json").write_text(content, encoding="utf-8")
    assert graph.why_missing("late", plain(1, 2)) == "never computed here"


def test_why_a_stage_is_missing(tmp_path: Path) -> None:
    graph = Graph(toy([]), ArtifactStore(tmp_path), Progress(quiet=True))
    assert graph.why_missing("late", plain(1, 2)) == "never computed here"
    graph.ensure("late", plain(1, 2))
    assert graph.why_missing("late", plain(1, 3)) == "differs in b"
    assert graph.why_missing("late", plain(7, 2)) == "something upstream is new"


def test_a_section_that_is_only_asked_for_is_handed_on_where_it_is(tmp_path: Path) -> None:
    configs: list[Any] = []
    node = Node("one", ("a",), lambda task: configs.append(dict(task.config)), asks=("more",))
    graph = Graph({"one": node}, ArtifactStore(tmp_path), Progress(quiet=True))
    for config in (plain(1, 2), {**plain(1, 2), "more": 3}, plain(1, 9), {**plain(1, 2), "more": 3}):
        graph.ensure("one", config)
    assert configs == [{"a": 1}, {"a": 1, "more": 3}]
    assert graph.why_missing("one", {**plain(1, 2), "more": 4}) == "differs in more"


def test_the_estimate_counts_the_work(config: Config, tmp_path: Path) -> None:
    rows = {
        row["stage"]: row
        for row in plan({**config, "runtime": {**config["runtime"], "outputs": str(tmp_path)}}, "evaluate")
    }
    assert rows["sample_fp"]["work"] == 40 * 4 and rows["calibset"]["work"] == 8 * 4
    assert rows["calibrate"]["work"] == 8 * 4 and rows["correct"]["work"] == 3 * 128 * 4
    assert rows["targets"]["work"] == 8 * 4 and rows["transform"]["work"] == 0
    assert rows["reconstruct"]["work"] > 40 * 32
    assert all(row["seconds"] >= 0 and row["why"] == "never computed here" for row in rows.values())
