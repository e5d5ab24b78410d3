"""Names by values, and the overrides that act: compared with what conf/ composes to without them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from dmq_cli.paths import conf_folder
from dmq_cli.results.acting import ChoiceSource, acting, from_command
from dmq_cli.results.naming import bits_name, bits_overrides
from dmq_cli.stages.nodes import NODES


@pytest.fixture(scope="module")
def source() -> Iterator[ChoiceSource]:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield ChoiceSource("config", ("conf",), GlobalHydra.instance().config_loader())


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["method=tac", "correct.ner=false", "correct.ibc=true", "correct.lambda1=0.5"], ["correct.ner=false"]),
        (["bits.weight=5", "seeds=0-9", "trace.seeds=5-6", "runtime.batch_size=7", "table.name=x", "sampler.num_inference_steps=10"], []),
        (["bits.prob=32", "sampler.num_inference_steps=3", "calib.num_steps=2"], ["bits.prob=32", "calib.num_steps=2", "sampler.num_inference_steps=3"]),
        (["correct=none", "method=tac", "scheme=quest", "scheme.scope=per_channel"], ["correct=none", "scheme=quest", "scheme.scope=per_channel"]),
        (["method=tac", "correct.clamp=[0.1,5]", "~correct.mask"], ["correct.clamp=[0.1,5]", "~correct.mask"]),
        (["+protocol.reference_sha256=ab", "protocol.num_images=40"], ["protocol.reference_sha256=ab"]),
        (["model=folder", "model.path=/x", "model.name=y", "model.sampling.eta=1", "protocol=smoke"], ["model.sampling.eta=1"]),
        (["protocol.metrics.kid=null", "protocol.metrics.is.splits=5"], ["protocol.metrics.is.splits=5", "protocol.metrics.kid=null"]),
        (["~protocol.metrics.kid", "+metric@protocol.metrics.cmmd=cmmd"], ["+metric@protocol.metrics.cmmd=cmmd", "~protocol.metrics.kid"]),
        (["method=lsq", "train.loss=distill", "train.min_snr=5", "train.lr=5e-4", "train.accumulate=4", "data=fashion"], ["train.loss=distill", "train.lr=0.0005", "train.min_snr=5"]),
        (["method=lsq", "data=images", "data.path=/photos"], ["data=images"]),
        (["method=lsq", "data=hf", "data.name=cifar10"], ["data=hf", "data.name=cifar10"]),
        (["method=tac", "train.loss=distill", "data=fashion"], []),
        (["method=tac", "backend=openvino"], ["backend=openvino"]),
        (["calibrated_steps=3", "budget.weight_iterations=2"], ["budget.weight_iterations=2", "calibrated_steps=3"]),
    ],
)  # fmt: skip
def test_overrides_that_act(words: list[str], wanted: list[str], source: ChoiceSource) -> None:
    config = compose("config", ["stage=evaluate", *words], return_hydra_config=True)
    overrides = acting(config, dict(config.hydra.runtime.choices), source)
    assert sorted(overrides) == sorted(wanted)


@pytest.mark.parametrize(
    ("bits", "name", "more"),
    [
        ({"name": "w4a8", "weight": 5, "act": 8, "prob": 8, "edge_weight": 8, "edge_act": 8}, "w5a8", []),
        ({"name": "fp", "weight": 32, "act": 32, "prob": 32, "edge_weight": 32, "edge_act": 32}, "fp", []),
        ({"name": "fp", "weight": 5, "act": 32, "prob": 32, "edge_weight": 32, "edge_act": 32}, "w5a32", ["bits.edge_weight=32"]),
        ({"name": "x", "weight": 4, "act": 4, "mid": 6}, "w4a4", ["bits.mid=6"]),
    ],
)  # fmt: skip
def test_bits_are_called_by_their_values(bits: dict[str, Any], name: str, more: list[str]) -> None:
    assert (bits_name(bits), bits_overrides(bits)) == (name, more)


def test_every_stock_choice_of_bits_keeps_its_name_and_no_key_has_it() -> None:
    files = sorted((conf_folder() / "bits").glob("*.yaml"))
    choices: Any = {file.stem: OmegaConf.to_container(OmegaConf.load(file), resolve=True) for file in files}
    assert {stem: (bits_name(choice), bits_overrides(choice)) for stem, choice in choices.items()} == {
        stem: (stem, []) for stem in choices
    }
    assert len(choices) == 15
    keyed = [node for name, node in NODES.items() if name != "export"]  # whose folder is called by its bits
    assert not {"bits", "overrides"} & {name for node in keyed for name in (*node.reads, *node.asks)}


def test_the_overrides_of_an_older_run_are_the_words_of_its_command() -> None:
    command = "dmq evaluate table=main model=folder 'model.path='\"'\"'/a b'\"'\"'' bits=w4a8 bits.weight=5 seeds=0-9 correct.ner=false"
    assert from_command(command) == ["correct.ner=false"] and from_command("") == []
