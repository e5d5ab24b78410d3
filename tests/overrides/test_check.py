"""What nobody reads, and what would leave a group without a choice, is refused with the key that was probably meant."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from dmq_cli.errors import ConfigError
from dmq_cli.overrides.check import check_config, check_words
from dmq_cli.paths import conf_folder
from tests.chain import dmq

GROUPS = sorted(
    path.name for path in conf_folder().iterdir() if path.is_dir() and path.name not in ("hydra", "metric", "subject")
)


@pytest.fixture(scope="module")
def config() -> Any:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", ["stage=evaluate", "method=tac"])


def changed(config: Any, key: str, value: object) -> Any:
    edited = copy.deepcopy(config)
    with open_dict(edited):
        OmegaConf.update(edited, key, value, merge=False, force_add=True)
    return edited


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("num_inference_steps", "sampler.num_inference_steps"),
        ("lambda1", "correct.lambda1"),
        ("outputs", "runtime.outputs"),
        ("runtime.outptus", "runtime.outputs"),
        ("runtime.foo", ""),
        ("model.foo", ""),
        ("model.sampling.etta", "model.sampling.eta"),
        ("cond.guidence", "cond.guidance"),
        ("trace.seed", "trace.seeds"),
        ("bits.wieght", "bits.weight"),
        ("budget.weight_iteration", "budget.weight_iterations"),
        ("method.foo", ""),
        ("table.nam", "table.name"),
        ("sampler.steps", "sampler.num_inference_steps"),
        ("correct.lamda1", "correct.lambda1"),
        ("recon.passes.weights.roundings.lr", "recon.passes.weights.rounding.lr"),
        ("protocol.metric", "protocol.metrics"),
        ("protocol.reference_sha", "protocol.reference_sha256"),
        ("train.unet.step", "train.unet.steps"),
        ("alpha", "transform.alpha (which transform=lowrank has)"),
        ("foo.bar", ""),
    ],
)
def test_a_key_that_nobody_reads(config: Any, key: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(changed(config, key, 7), [f"+{key}=7"])
    text = str(caught.value)
    assert text.startswith(f"+{key}=7 is read by nobody;") and text.endswith(" leave it out.")
    assert f"did you mean {meant}?" in text if meant else True


@pytest.mark.parametrize(
    "key",
    ["protocol.reference_sha256", "protocol.rng_seed", "model.weights", "model.expects.anything", "correct.clamp",
     "recon.temporal", "scheme.scope", "recon.passes.weights.drop", "table.name"],
)  # fmt: skip
def test_a_key_that_conf_leaves_out_but_somebody_reads(config: Any, key: str) -> None:
    check_config(changed(config, key, 7), [f"+{key}=7"])


def test_a_key_that_another_value_refers_to_is_read(config: Any) -> None:
    referred = changed(changed(config, "mine.width", 5), "bits.weight", "${mine.width}")
    check_config(referred, [])
    with pytest.raises(ConfigError, match=r"The key mine\.other of a file is read by nobody"):
        check_config(changed(referred, "mine.other", 5), [])


class Own:
    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength


class Anything:
    def __init__(self, **options: object) -> None:
        self.options = options


def test_the_constructor_of_a_users_own_class_says_what_it_reads(config: Any) -> None:
    check_config(changed(config, "correct", {"_target_": f"{__name__}.Own", "strength": 2}), [])
    check_config(changed(config, "correct", {"_target_": f"{__name__}.Anything", "strength": 2}), [])
    with pytest.raises(ConfigError, match=r"correct\.strenght .*did you mean correct\.strength\?"):
        check_config(changed(config, "correct", {"_target_": f"{__name__}.Own", "strenght": 2}), [])


def test_what_is_taken_away_although_it_is_needed(config: Any) -> None:
    swept = 0
    keys = [
        "runtime.batch_size",
        "cond.guidance",
        "seeds",
        "bits.weight",
        "model.path",
        "method.name",
        "budget.name",
        *GROUPS,
    ]
    for key in [key for key in keys if key != "train"]:
        lacking = copy.deepcopy(config)
        with open_dict(lacking):
            section, _, last = key.rpartition(".")
            del (lacking[section] if section else lacking)[last]
        with pytest.raises(ConfigError, match=rf"no {key}\b"):
            check_config(lacking, [])
        swept += 1
    assert swept == 7 + len(GROUPS) - 1 and len(GROUPS) == 17


def test_a_group_without_a_choice_is_one_sentence_for_every_group() -> None:
    swept = 0
    for group in GROUPS:
        for word in (f"{group}=null", f"~{group}", f"~{group}=none", f"{group}=[]", f"+{group}=null"):
            result = dmq("cost", word)
            assert result.code == 2 and word in result.sentence and f"choose one, as in {group}=" in result.sentence
            swept += 1
    assert swept == 5 * 17


def test_what_hydra_itself_cannot_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "ours.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /correct: null\nmethod: {name: ours, cite: us}\n",
        encoding="utf-8",
    )
    (tmp_path / "method" / "broken.yaml").write_text("a: [1\nb: 2", encoding="utf-8")
    for words in (["hydra/launcher=null"], ["method=ours"], ["method=broken"]):
        result = dmq("cost", "--config-dir", str(tmp_path), *words)
        assert result.code == 2 and result.sentence, words


@pytest.mark.parametrize("word", ["method.name=tac", "bits.name=w2a2", "++budget.name=paper"])
def test_a_label_alone_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="only change what the run is called"):
        check_words([word])


@pytest.mark.parametrize("word", ["+hydra.foo=1", "+hydra.job.foo=1", "++hydra.run.dirs=x"])
def test_keys_that_hydra_does_not_read(word: str) -> None:
    with pytest.raises(ConfigError, match="is read by nobody: Hydra has no"):
        check_words([word])
    check_words(
        ["+hydra.job.env_set.A=1", "+hydra.sweeper.params.bits=w4a8", "hydra.run.dir=x", "+hydra.launcher.n_jobs=2"]
    )


def test_the_command_line_refuses_them_and_a_sweep_does_at_once() -> None:
    for words in (["++lambda1=7"], ["+foo=1", "-m", "bits=w4a8,w3a8"], ["train=unknown"]):
        result = dmq("cost", *words)
        assert result.code == 2 and ("is read by nobody" in result.sentence or "no train unknown" in result.sentence)
    assert "Did you mean sampler.num_inference_steps?" in dmq("cost", "num_inference_steps=7").sentence
