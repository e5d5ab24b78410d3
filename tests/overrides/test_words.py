"""Words of a command line as Hydra reads them, by Hydra's own parser: paths with any characters, flags anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dmq_cli.errors import ConfigError
from dmq_cli.overrides import as_hydra, split, sweeps

PATHS = [
    "/t/é", "/t/日本", "/t/a=b", "/t/(x", "/t/x)", "/t/#", "/t/a b", "/t/it's", '/t/"q"', "/t/{a}", "/t/[1]", "/t/$x", "/t/${b}",
    "/t/${", "/t/x\\", "/t/\\'y", "/t/a\\${b}", "/t/\\${b}'\\\\", "/t/a,b", "/t/a;b|c&d!^`", "/t/%s*?@+:~", "plain/out-2", "out.2",
    "123", "1e5", "true", "inf", "-x",
]  # fmt: skip


def read(word: str) -> object:
    """What a configuration has after an override."""
    return OmegaConf.create({"key": OverridesParser.create().parse_override(word).value()}).key


@pytest.mark.parametrize("path", PATHS)
def test_a_path_arrives_as_it_is(path: str) -> None:
    for key in ("runtime.outputs", "model.path", "cond.prompts", "protocol.reference_path", "++logger.folder"):
        (word,) = as_hydra([f"{key}={path}"])
        assert read(word) == path and word.startswith(f"{key}=")
        assert as_hydra([word]) == [word], "a recorded command can be given again"
    if "/" in path:
        choice, place, name = as_hydra([f"model={path}"])
        assert choice == "model=folder" and read(place) == str(Path(path).absolute()) and read(name)


def test_what_is_no_path_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = [
        "cond.prompts=null",
        "model=ddim_digits",
        "seeds=[0-9,10-19]",
        "bits.weight=5",
        "runtime.device=cuda:0",
        "~trace",
    ]
    assert as_hydra(words) == words
    assert as_hydra(["runtime.outputs=~/x", "model=~/y"])[:2] == ["runtime.outputs=/home/me/x", "model=folder"]
    (word,) = as_hydra(["logger.folder=${runtime.outputs}/é"])
    config = OmegaConf.create(
        {"runtime": {"outputs": "o"}, "key": OverridesParser.create().parse_override(word).value()}
    )
    assert config.key == "o/é", "interpolations of keys stay interpolations"


def test_a_key_that_only_swept_methods_have_is_looked_for_in_their_jobs() -> None:
    words = [
        "method=lsq,tdq_qat",
        "recon.settings.iterations=2",
        "scheme.range=scale,low_fixed",
        "budget.name=x",
        "+recon.new=1",
    ]
    assert as_hydra(words, swept=True) == [words[0], "recon.settings.iterations=choice(2)", *words[2:]]
    assert as_hydra(["table=t", words[1]], swept=True)[1] == "recon.settings.iterations=choice(2)"
    unchanged = ["bits=w4a8,w3a8", words[1]]
    assert as_hydra(unchanged, swept=True) == unchanged, (
        "one method: the default configuration has the key, or nothing has"
    )
    assert as_hydra(words[:2]) == words[:2]
    of_data = ["data=images,hf", "data.path=/a", "protocol.num_images=3"]
    assert as_hydra(of_data, swept=True) == [of_data[0], "data.path=choice(/a)", of_data[2]]


def test_a_comma_is_part_of_a_path_except_in_a_sweep() -> None:
    assert read(as_hydra(["model=/a,/b"])[1]) == "/a,/b"
    (word,) = as_hydra(["model=/a,/b é,ddim_digits"], swept=True)
    jobs = OverridesParser.create().parse_override(word).sweep_string_iterator()
    overrides = [as_hydra([f"model={value}"]) for value in jobs]
    assert [read(words[1]) if len(words) > 1 else words for words in overrides] == ["/a", "/b é", ["model=ddim_digits"]]
    for comma in (r"model=/a\,b", "model='/a,b'"):
        assert read(as_hydra([comma], swept=True)[1]) == "/a,b"
    expressions = ["model=choice(/a,/b)", "model=glob(*)"]
    assert as_hydra(expressions, swept=True) == expressions
    assert sweeps(["--multirun"], []) and sweeps([], ["table=main"]) and not sweeps([], ["table=none", "bits=fp"])


def test_flags_may_stand_anywhere() -> None:
    arguments = [
        "--config-dir",
        "mine",
        "bits=w5a5",
        "-m",
        "-c",
        "job",
        "seeds=-1",
        "--info",
        "a=b",
        "--info",
        "config",
        "-cd=x",
    ]
    flags = ["--config-dir", "mine", "--multirun", "--cfg", "job", "--info", "--info", "config", "--config-dir=x"]
    assert split(arguments) == (flags, ["bits=w5a5", "seeds=-1", "a=b"])
    with pytest.raises(ConfigError, match=r"no flag --config-dirs\. Did you mean --config-dir\?"):
        split(["--config-dirs", "mine"])
    with pytest.raises(ConfigError, match="--cfg needs a value"):
        split(["--cfg"])
