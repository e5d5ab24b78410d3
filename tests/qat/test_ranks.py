"""Training by two processes: their gradients are those of one, and only the first writes."""

from __future__ import annotations

import datetime
import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from dmq_cli.errors import ConfigError
from dmq_cli.qat import Settings
from dmq_cli.qat.loop import Loop
from dmq_cli.qat.ranks import Ranks, backend_for, check_together, started, together
from dmq_cli.store.tensors import load_tensors
from dmq_cli.wrap import state
from tests.chain import QUICK, artifacts, tiny_folder, words
from tests.qat.runs import run, trained_network, training
from tests.tiny import SMALL, one_sentence

HELPER = """
import sys
from pathlib import Path
from dmq_cli.store.tensors import save_tensors
from dmq_cli.wrap import state
from tests.qat.runs import run, trained_network, training
work = Path(sys.argv[1]) / f"rank{sys.argv[2]}"
work.mkdir()
attached = trained_network(act=4)
run(training(3, batch_size=int(sys.argv[3]), accumulate=int(sys.argv[4])), attached, work)
save_tensors(work / "state.safetensors", state(attached))
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def start(arguments: list[str], rank: int, size: int, port: int) -> subprocess.Popen[str]:
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(size)}
    surroundings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *arguments], text=True, env=surroundings, **pipes)  # type: ignore[call-overload, no-any-return]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    texts = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, out, err) for process, (out, err) in zip(processes, texts, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "parts"), [(4, 1), (5, 3)], ids=["equal shares", "unequal shares in parts"])
def test_two_processes_learn_what_one_does(batch: int, parts: int, tmp_path: Path) -> None:
    port, attached = free_port(), trained_network(act=4)
    words_of = ["-c", HELPER, str(tmp_path)]
    processes = [start([*words_of, str(rank), str(batch), str(parts)], rank, 2, port) for rank in range(2)]
    (tmp_path / "alone").mkdir()
    run(training(3, batch_size=batch), attached, tmp_path / "alone")
    results = ended(processes)
    assert [code for code, _, _ in results] == [0, 0], results
    alone, first = state(attached), load_tensors(tmp_path / "rank0" / "state.safetensors")
    assert set(alone) == set(first) and len(alone) >= 60
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-7, atol=1e-9, msg=name)
    assert list((tmp_path / "rank0").glob("tmp-training-*")) and not list((tmp_path / "rank1").glob("tmp-training-*"))


@pytest.mark.slow
def test_a_command_that_is_started_twice_trains_together_and_writes_once(tmp_path: Path) -> None:
    model, outputs, port = tiny_folder(tmp_path / "tiny", **SMALL), tmp_path / "outputs", free_port()
    command = ["-m", "dmq_cli", *words("evaluate", model, outputs, "method=tdq_qat", "bits=w4a4", *QUICK, "trace=null")]
    results = ended([start(command, rank, 2, port) for rank in range(2)])
    assert [code for code, _, _ in results] == [0, 0], results
    assert "FD-digits" in results[0][1] and results[1][1] == ""
    assert artifacts(outputs)["reconstruct"] == artifacts(outputs)["evaluate"] == 1
    assert len(list((outputs / "runs" / "evaluate").iterdir())) == 1
    again = ended([start(command, rank, 2, free_port()) for rank in range(2)])
    assert [code for code, _, _ in again] == [0, 0], "nothing is left to do together"


def test_more_processes_than_samples_are_refused(tmp_path: Path) -> None:
    settings, nothing = Settings(3, batch_size=4), cast(Any, None)
    with pytest.raises(ConfigError) as caught:
        Loop(settings, nothing, nothing, tmp_path, nothing, ranks=Ranks(1, 5))
    assert "5 processes was to share batches of 4" in one_sentence(caught.value)


def test_processes_that_do_not_see_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmq_cli.qat.ranks.told", lambda value, ranks: 200)
    check_together(200, tmp_path, Ranks(1, 2))
    with pytest.raises(ConfigError) as caught:
        check_together(0, tmp_path, Ranks(1, 2))
    sentence = one_sentence(caught.value)
    assert "at step 0 and the first one at 200" in sentence and "runtime.outputs" in sentence


@pytest.mark.parametrize(
    ("device", "local", "cards", "backend"),
    [("cpu", "2", 0, "gloo"), ("cuda", "2", 2, "nccl"), ("cuda", "3", 2, "gloo"), ("cuda", "1", 1, "nccl")],
)
def test_processes_that_share_a_card_do_not_use_nccl(
    device: str, local: str, cards: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    assert backend_for(torch.device(device)) == backend


def test_every_row_is_somebody_s_share() -> None:
    shares = [Ranks(rank, 3).share(torch.arange(8)).tolist() for rank in range(3)]
    assert sorted(itertools.chain(*shares)) == list(range(8)) and max(map(len, shares)) - min(map(len, shares)) <= 1
    assert Ranks().first and not Ranks(1, 2).first


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("x", "2"), ("-1", "1")])
def test_impossible_ranks_are_refused(rank: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ConfigError) as caught:
        started()
    assert "torchrun" in one_sentence(caught.value)


def test_processes_that_do_not_meet_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("dmq_cli.qat.ranks._PATIENCE", datetime.timedelta(seconds=1))
    with pytest.raises(ConfigError) as caught, together(torch.device("cpu")):
        pass
    assert "did not meet" in one_sentence(caught.value)
