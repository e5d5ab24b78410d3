"""The same command started several times: who is who, how they meet, and what is said where they do not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from dmq_cli.errors import ConfigError
from dmq_cli.qat.ranks import Ranks
from dmq_cli.stages import workers
from dmq_cli.stages.ranks import Launch, on_rank, place
from tests.chain import dmq, words
from tests.tiny import one_sentence

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
RUNTIME = {"device": "cpu", "threads": None, "workers": None, "devices": None}


@contextmanager
def within(environment: Mapping[str, str]) -> Iterator[None]:
    """An environment without that of a launcher that started the tests, and with this."""
    with patch.dict("os.environ", environment), pytest.MonkeyPatch.context() as patched:
        for name in {*TORCHRUN, *SRUN} - set(environment):
            patched.delenv(name, raising=False)
        yield


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, Ranks(0, 1)), (TORCHRUN, Ranks(2, 3)), (SRUN, Ranks(1, 4)), ({**SRUN, **TORCHRUN}, Ranks(2, 3))],
)
def test_the_launcher_says_which_process_this_is(environment: Mapping[str, str], expected: Ranks) -> None:
    with within(environment):
        assert place() == expected


def test_in_a_shell_of_an_allocation_a_process_is_alone() -> None:
    with within({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}):
        assert place() == Ranks(0, 1)


def test_what_is_forced_is_removed_by_one_process_only() -> None:
    with within(SRUN), pytest.raises(ConfigError) as caught:
        on_rank({**RUNTIME, "force": ["reconstruct"]}, place())
    assert "4 processes of one launch" in one_sentence(caught.value)
    assert on_rank({**RUNTIME, "force": ["reconstruct"]}, Ranks())["force"] == ["reconstruct"]


@pytest.mark.parametrize(("local", "device"), [("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")])
def test_each_process_of_a_machine_has_a_device_of_its_own(local: str, device: str) -> None:
    with within({**SRUN, "SLURM_LOCALID": local}), patch("torch.cuda.device_count", return_value=2):
        for devices, single in (("auto", None), (["cuda:0", "cuda:1"], None), (None, "cuda")):
            runtime = on_rank({**RUNTIME, "device": single or "cpu", "devices": devices}, place())
            assert runtime["device"] == device and workers.count(runtime) == 1
        assert on_rank(RUNTIME, place())["device"] == "cpu"


@pytest.mark.parametrize(
    ("runtime", "count", "devices", "threads"),
    [
        ({}, 1, ["cpu"], 4), ({"workers": 3}, 3, ["cpu"], 1), ({"workers": 3, "threads": 5}, 3, ["cpu"], 5),
        ({"devices": ["cuda:0", "cuda:1"]}, 2, ["cuda:0", "cuda:1"], 2),
        ({"devices": ["cuda:0", "cuda:1"], "workers": 4}, 4, ["cuda:0", "cuda:1"], 1),
        ({"devices": "auto"}, 1, ["cpu"], 4),
    ],
)  # fmt: skip
def test_workers_share_threads_and_devices(
    runtime: dict[str, object], count: int, devices: list[str], threads: int
) -> None:
    whole = {**RUNTIME, **runtime}
    with patch("torch.get_num_threads", return_value=4), patch("torch.cuda.device_count", return_value=0):
        assert (workers.count(whole), workers.devices(whole), workers.threads(whole)) == (count, devices, threads)


@contextmanager
def leading(outputs: Path, key: str, lock: str = "auto") -> Iterator[None]:
    with Launch(Ranks(0, 2), outputs, key, lock).leading(threads=3):
        yield


@pytest.mark.parametrize("lock", ["flock", "lease"])
def test_processes_meet_in_the_outputs_folder(lock: str, tmp_path: Path) -> None:
    second = Launch(Ranks(1, 2), tmp_path, "a", lock)
    joined: list[int | None] = []
    thread = threading.Thread(target=lambda: joined.append(second.join(lambda: False)))
    thread.start()
    with leading(tmp_path, "a", lock):
        thread.join()
        assert joined == [3] and second.alive()
    assert not second.alive()
    assert second.join(lambda: True) is None
    assert second.join(lambda: False, patience=0.3) is None, "the first one is over"


def test_another_configuration_is_said(tmp_path: Path) -> None:
    with leading(tmp_path, "a"), pytest.raises(ConfigError) as caught:
        Launch(Ranks(1, 2), tmp_path, "b").join(lambda: False, patience=0.3)
    assert str(caught.value) == (
        f"Process 1 of 2 on {socket.gethostname()} was started with another configuration than process 0 on"
        f" {socket.gethostname()}; start all with the same words."
    )


def test_a_folder_that_is_not_shared_is_said(tmp_path: Path) -> None:
    with (
        leading(tmp_path / "first", "a"),
        pytest.raises(ConfigError, match="give a folder that all machines share") as caught,
    ):
        Launch(Ranks(1, 2), tmp_path / "second", "a").join(lambda: False, patience=0.3)
    assert str(tmp_path / "second") in str(caught.value)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("runtime.workers=0", "runtime.workers=0 is not possible; give a whole number, at least 1, or null."),
        ("runtime.workers=two", "runtime.workers=two is not possible; give a whole number, at least 1, or null."),
        ("runtime.devices=cuda", "runtime.devices=cuda is no list of devices; write runtime.devices=[cuda:0,cuda:1], or auto for all."),
        ("runtime.devices=[]", "runtime.devices=[] is no list of devices; write runtime.devices=[cuda:0,cuda:1], or auto for all."),
    ],
)  # fmt: skip
def test_impossible_workers_are_one_sentence(word: str, sentence: str, small: Path, tmp_path: Path) -> None:
    refused = dmq(*words("sample", small, tmp_path, word))
    assert (refused.code, refused.sentence) == (2, sentence)


def test_a_device_that_does_not_exist_is_one_sentence(small: Path, tmp_path: Path) -> None:
    refused = dmq(*words("sample", small, tmp_path, "runtime.devices=[cpu,cuda:99]"))
    assert refused.code == 2 and refused.sentence.startswith("runtime.devices=cuda:99 cannot be used here (")
