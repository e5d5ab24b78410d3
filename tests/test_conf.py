"""Everything in conf/: it composes, it fits the constructors it names, and typing errors are told."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from dmq_cli import papers
from dmq_cli.errors import ConfigError
from dmq_cli.metrics import SetMetric, TwinMetric, shown
from dmq_cli.metrics.shown import classes
from dmq_cli.overrides.bits import is_width, register_bits
from dmq_cli.overrides.shape import unread
from dmq_cli.paths import PACKAGE, conf_folder
from dmq_cli.stages import build
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.validate import check_runtime, check_types

CONF = conf_folder()
BITS = ["fp", "w2a8", "w3a3", "w3a6", "w3a8", "w4a32", "w4a4", "w4a6", "w4a8", "w6a6", "w8a4", "w8a5", "w8a6"]
BITS += ["w8a7", "w8a8"]
TRAINED = ["dynamic_qat", "efficientdm", "lsq", "nipq", "pact", "steps_n_qat", "tdq_qat"]
METHODS = [
    "adaround",
    "brecq",
    "dynamic",
    "eda",
    "eda_released",
    "minmax",
    "ptq4dm",
    "ptqd",
    "qdiffusion",
    "qdrop",
    "quest",
]
METHODS += [
    "signround",
    "steps_n",
    "svdquant",
    "tac",
    "tac_first",
    "tac_ibc",
    "tac_ner",
    "tac_noise",
    "tcaq",
    "tdq",
    "tfmq",
]
METHODS = sorted([*METHODS, "tfmq_embeddings", *TRAINED])
BUILT = ("calib", "transform", "scheme", "policy", "recon", "correct", "sampler", "numerics", "protocol")
PREPARED = {"to_uint8", "measured_with", "calib_sampler", "recon_targets", "training_data"}  # what stages.prepare adds
SAMPLING = {"num_inference_steps", "spacing", "eta", "set_alpha_to_one"}
SAMPLING |= {"guidance", "correct_target", "classes", "prompts"}
FOLLOWED = ["spacing=uniform", "solver_spacing=linspace", "steps_offset=0", "set_alpha_to_one=true"]
FOLLOWED += ["clip_sample=false", "clip_sample_range=1.0", "skip_prk_steps=true"]  # null: as the folder says
FILLED = {
    "model=folder": ["model.path=/somewhere", "model.name=x", *(f"model.sampling.{word}" for word in FOLLOWED)],
    "protocol=fid_torch_fidelity": ["protocol.reference=x", "protocol.reference_path=/somewhere.npz"],
    "protocol=adm": ["protocol.reference=x", "protocol.reference_path=/somewhere.npz"],
    "protocol=coco30k": ["protocol.reference_path=/somewhere.npz"],
}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of a command, resolved, as the stages get it: a copy of its own, composed once by a process."""
    return copy.deepcopy(_composed(overrides))


@functools.lru_cache(maxsize=512)
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    more = [value for choice, values in FILLED.items() if choice in overrides for value in values]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["stage=evaluate", *more, *overrides])
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def targets(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping with a `_target_`, at any depth."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from targets(value)


def bind(config: Mapping[str, Any]) -> int:
    """Bind the signature of everything the configuration would call; how many there were."""
    count = 0
    for node in targets(config):
        assert node["_target_"].startswith("dmq_cli."), "only re-exported names of dmq_cli"
        signature = inspect.signature(get_object(node["_target_"]))
        keywords = {key: value for key, value in node.items() if not key.startswith("_")}
        (signature.bind_partial if node.get("_partial_") else signature.bind)(**keywords)
        count += 1
    return count


def test_the_choices_are_those_of_the_issue() -> None:
    assert choices("bits") == sorted(BITS)
    assert set(choices("method")) == set(METHODS) and len(METHODS) == 30
    protocols = ["adm", "coco30k", "digits", "digits_latent", "fashion", "fid_torch_fidelity", "paired", "smoke"]
    assert choices("protocol") == protocols
    assert {"smoke", "light", "paper"} <= set(choices("budget"))
    assert choices("calib") == ["every_step", "normal_t", "random_t", "tdac", "uniform"]
    assert choices("numerics") == ["bf16", "fp16", "fp32"]
    assert choices("transform") == ["lowrank", "none", "tcr"]
    assert choices("policy") == ["common", "eda", "ptq4dm", "ptqd", "qdiffusion", "quest", "tdq", "tfmq", "uniform"]


Combination = tuple[str, str, str]  # model, method, bits


def combinations() -> tuple[list[Combination], list[Combination]]:
    """Every model, method and bits, each in turn; then every method with a network of pixels and with a folder of one's own."""
    models, methods = choices("model"), choices("method")
    longest = max(models, methods, BITS, key=len)
    few = list(zip(itertools.cycle(models), itertools.cycle(methods), itertools.cycle(BITS), longest, strict=False))
    pairs = itertools.product(["ddim_digits", "folder"], methods)
    return [row[:3] for row in few], [(*pair, bits) for pair, bits in zip(pairs, itertools.cycle(BITS), strict=False)]


def words(row: Combination) -> list[str]:
    return [f"{group}={choice}" for group, choice in zip(("model", "method", "bits"), row, strict=True)]


def test_the_fast_and_the_slow_combinations_are_all() -> None:
    few, others = combinations()
    every = [{row[place] for row in few} for place in range(3)]
    assert every == [set(choices("model")), set(choices("method")), set(BITS)]
    assert len(few) + len(others) >= 3 * 30
    assert {row[:2] for row in others} == set(itertools.product(["ddim_digits", "folder"], choices("method")))


@pytest.mark.parametrize("part", ["few", pytest.param("others", marks=pytest.mark.slow)])
def test_every_model_method_and_bits_compose_and_fit(part: str) -> None:
    bound, every = 0, combinations()[part == "others"]
    for model, method, bits in every:
        config = composed(*words((model, method, bits)))
        assert (config["method"]["name"], config["bits"]["name"]) == (method, bits)
        assert list(unread(config)) == []
        bound += bind(config)
        for section in BUILT:
            check_types(section, config[section])
            build.make(config[section])
        check_runtime(config["runtime"], NODES)
        assert {section for node in NODES.values() for section in node.reads} <= {*config, *PREPARED}
    assert bound >= 15 * len(every), "sections, five rules and their parts in each"


def together(groups: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Rows that take a choice of every group, until each choice was in one."""
    longest = max(map(len, groups.values()))
    return [{group: options[row % len(options)] for group, options in groups.items()} for row in range(longest)]


def test_every_other_choice_composes_and_fits() -> None:
    groups = {str(path.parent.relative_to(CONF)) for path in CONF.glob("*/*.yaml")}
    others = {group: choices(group) for group in sorted(groups - {"model", "method", "bits", "metric", "subject"})}
    assert set(others) >= {"budget", "train", "table", *BUILT}
    tables = set(others.pop("table")) - set(papers.names())  # theirs are data, which test_rows composes with
    assert tables >= {"none", "demo", "main"}  # override choices of others, so each is alone
    hydra = others.pop("hydra/launcher", [])
    rows = [
        *together(others),
        *({"table": name} for name in sorted(tables)),
        *({"hydra/launcher": name} for name in hydra),
    ]
    for row in rows:
        config = composed(*(f"{group}={name}" for group, name in row.items()))
        assert bind(config) > 0 and list(unread(config)) == []
        for section in BUILT:
            check_types(section, config[section])
    composes = {(group, name) for row in rows for group, name in row.items()}
    elsewhere = {("table", name) for name in papers.names()}
    elsewhere |= {
        (group, name) for group in ("model", "method", "bits", "metric", "subject") for name in choices(group)
    }
    files = {(str(path.parent.relative_to(CONF)), path.stem) for path in CONF.glob("*/*.yaml")}
    assert composes | elsewhere == files and len(composes) >= 75


@pytest.mark.parametrize("name", choices("metric"))
def test_every_metric_joins_a_protocol(name: str) -> None:
    host = "adm" if name == "sfid" else "digits_latent"
    there = name in composed(f"protocol={host}")["protocol"]["metrics"]
    protocol = composed(f"protocol={host}", f"{'' if there else '+'}metric@protocol.metrics.{name}={name}")["protocol"]
    assert bind(protocol) > 7 and list(unread({"protocol": protocol})) == []
    check_types("protocol", protocol)
    metric = build.make(protocol).metrics[name]
    assert metric.name == name and isinstance(metric, SetMetric | TwinMetric) and metric.results[0].heading
    assert classes()[name] is type(metric) and shown(metric.results[0].key) == metric.results[0]
    options = {key for key in protocol["metrics"][name] if key != "_target_"}
    assert options == set(vars(metric)), "every option stands in its file"


@pytest.mark.parametrize("model", choices("model"))
def test_a_model_has_all_defaults_of_its_sampler(model: str) -> None:
    config = composed(f"model={model}")
    sampling = config["model"]["sampling"]
    assert set(sampling) >= SAMPLING
    assert config["sampler"]["num_inference_steps"] == sampling["num_inference_steps"]
    assert (sampling["guidance"] is None) == (sampling["correct_target"] is None)
    assert sampling["correct_target"] in (None, "guided", "uncond")


@pytest.mark.parametrize("name", choices("protocol"))
def test_every_protocol_may_be_given_the_weights_of_further_metrics(name: str) -> None:
    paths = {key: f"/{key}" for key in ("dinov2_path", "clip_path", "lpips_path")}
    protocol = composed(f"protocol={name}", *(f"protocol.{key}={value}" for key, value in paths.items()))["protocol"]
    assert paths.items() <= protocol.items()


def test_a_model_may_choose_its_sampler_and_the_command_line_wins() -> None:
    plms = composed("model=sd14")["sampler"]
    assert plms["_target_"] == "dmq_cli.sampling.PLMS" and plms["num_inference_steps"] == 50
    assert composed("model=sd14", "sampler=ddim")["sampler"]["_target_"] == "dmq_cli.sampling.Sampler"
    assert composed("model=ldm4")["model"] == composed("model=ldm4_bedroom")["model"]


@pytest.mark.parametrize("method", choices("method"))
def test_a_method_overrides_groups_and_cites(method: str) -> None:
    text = OmegaConf.to_container(OmegaConf.load(CONF / "method" / f"{method}.yaml"))
    assert isinstance(text, dict)
    assert set(text) == {"defaults", "method"}, "values would survive a swap of their group"
    assert all(key.startswith("override /") for entry in text["defaults"] for key in entry)
    assert set(text["method"]) == {"name", "cite"} and text["method"]["name"] == method
    assert "arXiv:" in text["method"]["cite"] and len(text["method"]["cite"]) > 40
    groups = {key.removeprefix("override /") for entry in text["defaults"] for key in entry}
    expected = {"calib", "transform", "scheme", "recon", "correct"}
    expected |= {"policy"} if method == "eda_released" else set()  # which has released layers, too
    assert groups == expected, "a method that leaves one out depends on config.yaml"


@pytest.mark.parametrize("recon", [name for name in choices("recon") if name != "none"])
def test_a_seed_of_the_learning_reaches_all_that_is_learned(recon: str) -> None:
    seed = "recon.settings.seed" if "settings" in composed(f"recon={recon}")["recon"] else "recon.seed"
    reached = composed(f"recon={recon}", f"{seed}=7")["recon"]
    assert {node["seed"] for node in [reached, *targets(reached)] if "seed" in node} == {7}


@pytest.mark.parametrize("bits", BITS)
def test_bits_are_what_their_name_says(bits: str) -> None:
    config = composed(f"bits={bits}")["bits"]
    if bits == "fp":
        weight, act = 32, 32
    else:
        weight, act = (int(number) for number in bits[1:].split("a"))
    assert (config["name"], config["weight"], config["act"], config["prob"]) == (bits, weight, act, act)
    assert config["edge_weight"] == (32 if bits == "fp" else 8)
    assert config["edge_act"] == (32 if act == 32 else 8)


def test_a_choice_wins_over_the_method_and_brings_no_values_along() -> None:
    swapped = composed("method=tac", "correct=none")
    assert swapped["correct"] == {"_target_": "dmq_cli.correct.NoCorrection"}
    assert swapped["recon"]["_target_"] == "dmq_cli.recon.Reconstruction"
    assert composed("method=tcaq", "recon=none")["recon"] == {"_target_": "dmq_cli.recon.NoReconstruction"}
    assert composed("policy=tdq", "method=qdiffusion")["policy"] == composed("policy=tdq")["policy"], (
        "methods set no policy"
    )


def test_tables_sweep_and_keep_their_cells() -> None:
    from dmq_cli.sampling import parse_ranges

    of_papers = papers.names()  # whose jobs are rows: see test_papers
    tables = [name for name in choices("table") if name != "none" and name not in of_papers]
    assert {"demo", "main"} <= set(tables)
    for name in tables:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            multirun = compose("config", ["stage=evaluate", f"table={name}"], return_hydra_config=True)
        assert multirun.table.name == name.partition("__")[0], "a further part fills the same table"
        assert multirun.hydra.mode.name == "MULTIRUN"
        params = {key: str(values).split(",") for key, values in multirun.hydra.sweeper.params.items()}
        sweep = {key: [value.strip() for value in values] for key, values in params.items()}
        assert set(sweep.get("method", [])) <= set(choices("method"))
        assert all(bits in choices("bits") or is_width(bits) for bits in sweep["bits"])
        register_bits([f"bits={bits}" for bits in sweep["bits"]])
        config = composed(f"table={name}", *(f"{key}={values[-1]}" for key, values in sweep.items()))
        assert all(len(seeds) == config["protocol"]["num_images"] for seeds in parse_ranges(config["seeds"]))


def test_noise_of_calibration_correction_and_evaluation_is_disjoint() -> None:
    from dmq_cli.stages.build import make
    from dmq_cli.stages.validate import check_seeds

    tables = [composed(f"table={table}") for table in choices("table") if table not in papers.names()]
    methods = [composed(*words(row)) for row in combinations()[0]]
    swept = 0
    for table, method in itertools.product(tables, methods):
        check_seeds({**table, "calib": method["calib"]}, make(method["correct"]).seeds)
        swept += 1
    assert swept >= 7 * 21


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("method=tacc", ["method/tacc", "tac", "qdiffusion", "minmax"]),
        ("bits=w99a9", ["bits/w99a9", "w4a8", "fp"]),
        ("protocol=fid", ["protocol/fid", "digits", "fid_torch_fidelity"]),
    ],
)
def test_a_wrong_choice_names_what_exists(override: str, named: list[str]) -> None:
    with pytest.raises(HydraException) as caught:
        composed(override)
    assert all(name in str(caught.value) for name in named)


@pytest.mark.parametrize(
    ("section", "value", "sentence"),
    [
        ("sampler", {"spacing": None}, "sampler.spacing=None is not possible; give text."),
        ("calib", {"num_steps": "many"}, "calib.num_steps=many is not possible; give a whole number."),
        ("sampler", {"eta": True}, "sampler.eta=True is not possible; give a number."),
        ("sampler", {"clip_sample": 1}, "sampler.clip_sample=1 is not possible; give true or false."),
        ("numerics", {"tf32": 1}, "numerics.tf32=1 is not possible; give true or false."),
        ("recon", {"seed": 0.5}, "recon.seed=0.5 is not possible; give a whole number."),
        ("recon", {"units": "x"}, "recon.units=x is not possible; give one of blocks, layers."),
        ("recon", {"num_samples": "x"}, "recon.num_samples=x is not possible; give a whole number or null."),
        ("correct", {"clamp": [0.2]}, "correct.clamp=[0.2] is not possible; give a list of a number 2 times."),
        ("correct", {"mask": "x"}, "correct.mask=x is not possible; give one of two_sided, one_sided."),
        ("protocol", {"num_images": "x"}, "protocol.num_images=x is not possible; give a whole number."),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_told(section: str, value: dict[str, Any], sentence: str) -> None:
    config = composed("method=tac")
    with pytest.raises(ConfigError) as caught:
        check_types(section, {**config[section], **value})
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("weights.iterations", "many", "recon.passes.weights.iterations=many is not possible; give a whole number."),
        ("scales.p", True, "recon.passes.scales.p=True is not possible; give a number."),
        ("weights.rounding.lr", "x", "recon.passes.weights.rounding.lr=x is not possible; give a number."),
        ("weights.rounding.beta", [2], "recon.passes.weights.rounding.beta=[2] is not possible; give a list of a number 2 times."),
        ("scales.scales.relative", 1, "recon.passes.scales.scales.relative=1 is not possible; give true or false."),
    ],
)  # fmt: skip
def test_values_inside_of_values_are_looked_at_too(path: str, value: object, sentence: str) -> None:
    recon = composed("method=tac")["recon"]
    check_types("recon", recon)
    check_types("recon", composed("recon=quest")["recon"])
    *outer, last = path.split(".")
    inner = recon["passes"]
    for step in outer:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(ConfigError) as caught:
        check_types("recon", recon)
    assert str(caught.value) == sentence


def test_seeds_may_be_a_number_and_numbers_may_be_whole() -> None:
    config = composed("method=tac")
    check_types("calib", {**config["calib"], "seeds": 7})
    check_types("correct", {**config["correct"], "lambda1": 1})
    check_types("recon", {**config["recon"], "num_samples": None})


def test_the_checkout_uses_its_own_conf() -> None:
    assert PACKAGE.parent / "conf" == CONF
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert isinstance(compose("config"), DictConfig)
