"""Two tiny models, and the whole chain on one of them, run once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chain import (
    TAC,
    Result,
    counting,
    dmq,
    tiny_folder,
    words,
)
from tests.tiny import SMALL


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one level, images of 16x16, which a protocol measures; ten units, whose edges are a fifth. Nobody writes into it."""
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny", **{**SMALL, "block_out_channels": (16,)})


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with images of 8x8."""
    return tiny_folder(tmp_path_factory.mktemp("model") / "small", sample_size=8, **SMALL)


@pytest.fixture(scope="session")
def once(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result, list[str]]:
    """evaluate method=tac bits=w3a8: the outputs folder, a copy of it, what was printed, the stages that ran."""
    outputs, copy = tmp_path_factory.mktemp("outputs"), tmp_path_factory.mktemp("copy") / "outputs"
    with counting() as ran:
        result = dmq(*words("evaluate", model, outputs, *TAC, "--json"))
    assert result.code == 0, result.err
    shutil.copytree(outputs, copy, symlinks=True)
    return outputs, copy, result, ran


@pytest.fixture(scope="module")
def done(once: tuple[Path, Path, Result, list[str]]) -> Iterator[tuple[Path, Result, list[str]]]:
    """The same for a test file of its own: what it adds or takes away, the next one does not see."""
    outputs, copy, result, ran = once
    yield outputs, result, list(ran)
    shutil.rmtree(outputs)
    shutil.copytree(copy, outputs, symlinks=True)
