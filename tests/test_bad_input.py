"""What a user gets wrong ends in one sentence and a stable exit code, and loses nothing that was finished."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dmq_cli.stages import nodes, quantize
from dmq_cli.stages.graph import Task
from tests.chain import IMAGES, Result, artifacts, counting, dmq, failing, tiny_folder, words

VERBS = ["calibrate", "reconstruct", "correct", "sample", "evaluate"]
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


def refused(result: Result, code: int) -> str:
    """The sentence of a command that failed as it should, with nothing after it."""
    assert result.code == code, result.err
    text = result.sentence
    assert result.err.endswith(f"Error: {text}\n") and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("method=tacc", ["no method tacc", "minmax", "qdiffusion", "tac"]),
        ("bits=w99a9", ["bits=w99a9", "99 bits are not possible"]),
        ("bits=w4", ["no bits w4", "w4a8"]),
        ("model=nothing", ["no model nothing", "ddim_digits"]),
        ("bitz=w4a8", ["There is no bitz", "Did you mean bits?", "protocol"]),
        ("sampler.steps=3", ["There is no sampler.steps", "num_inference_steps"]),
        ("sampler.num_inference_steps=many", ["sampler.num_inference_steps=many", "a whole number"]),
        ("sampler.num_inference_steps=0", ["sampler.num_inference_steps=0", "use 1 to 1000"]),
        ("sampler.spacing=cubic", ["cubic", "uniform, quad"]),
        ("calib.num_steps=0", ["calib.num_steps=0", "at least 1"]),
        ("calibrated_steps=0", ["calibrated_steps=0", "at least 1, or null"]),
        ("calibrated_steps=many", ["calibrated_steps=many", "a whole number"]),
        ("policy=none", ["no policy none", "common", "tfmq"]),
        ("transform=svd", ["no transform svd", "lowrank", "tcr"]),
        ("bits.weight=0", ["*.weight", "0 bits", "2 to 16"]),
        ("bits.weight=two", ["'two' bits", "2 to 16"]),
        ("bits.act=2.5", ["2.5 bits", "2 to 16"]),
        ("seeds=9-3", ["'9-3' is empty", "0-1999"]),
        ("seeds=x", ["'x'", "0-1999"]),
        ("seeds=[]", ["empty", "0-1999"]),
        ("seeds=[0-39,39-78]", ["share the seeds 39-39"]),
        ("seeds=[0-39,50-60]", ["differ in length"]),
        ("seeds=1000000-1000039", ["calib.seeds", "share the seeds 1000000-1000007"]),
        (f"seeds=0-{IMAGES}", [f"{IMAGES + 1} images", f"measures {IMAGES}", "protocol.num_images"]),
        ("protocol.metrics=fd", ["metrics=fd", "a section of its own", "+metric@protocol.metrics.NAME=NAME"]),
        ("protocol.metrics=[fd,is]", ["protocol.metrics=[fd,is]", "protocol.metrics.NAME=null"]),
        ("protocol.kid_subset_size=7", ["protocol.kid_subset_size=7", "protocol.metrics.kid.subset_size=7"]),
        ("protocol.metrics.kid.subset_size=1", ["metrics.kid.subset_size=1", "at least 2"]),
        ("protocol.metrics.is.splits=x", ["protocol.metrics.is.splits=x", "a whole number"]),
        ("~metric@protocol.metrics.kid", ["protocol.metrics.kid=null"]),
        ("+metric@protocol.metrics.fid=kid", ["the metric kid under the name fid"]),
        ("+metric@protocol.metrics.fid=fid", ["no metric fid", "fd_dinov2"]),
        ("+protocol.metrics.cmmd.sigma=3", ["protocol.metrics.cmmd", "+metric@protocol.metrics.cmmd=cmmd"]),
        ("protocol.extractor=vgg", ["vgg", "digits_cnn"]),
        ("protocol=fid_torch_fidelity", ["no value for protocol.reference,", "protocol.reference=NAME"]),
        ("runtime.batch_size=0", ["runtime.batch_size=0", "at least 1"]),
        ("runtime.threads=x", ["runtime.threads=x", "whole number"]),
        ("runtime.device=abacus", ["abacus", "use cpu"]),
        ("runtime.device=meta", ["meta", "no numbers", "use cpu"]),
        ("runtime.force=[reconstrukt]", ["reconstrukt", "Did you mean reconstruct?"]),
        ("runtime.force=reconstruct", ["runtime.force=[reconstruct]"]),
        ("runtime.upstream=maybe", ["maybe", "ensure or require"]),
        ("store.lock=mutex", ["store.lock=mutex", "auto, flock or lease"]),
        ("stage=dance", ["stage=dance", "evaluate"]),
        ("+sampler.more=1", ["+sampler.more=1 is read by nobody"]),
        ("foo===", ["foo===", "'='"]),
    ],
)  # fmt: skip
def test_bad_words_are_refused_before_anything_is_computed(
    override: str, parts: list[str], model: Path, tmp_path: Path
) -> None:
    with counting() as ran:
        text = refused(dmq(*words("evaluate", model, tmp_path, override)), 2)
    assert all(part in text for part in parts), text
    assert ran == [] and not (tmp_path / "artifacts").exists()
    assert not list(tmp_path.glob("runs/evaluate/*"))


def test_correction_noise_must_be_its_own(model: Path, tmp_path: Path) -> None:
    command = words("evaluate", model, tmp_path, "method=tac", "correct.seeds=1000003-1000009")
    assert "calib.seeds" in refused(dmq(*command), 2)


def test_a_model_folder_that_is_not_there_or_lacks_files(model: Path, tmp_path: Path) -> None:
    command = words("evaluate", tmp_path / "none", tmp_path / "out")
    assert "does not exist" in refused(dmq(*command), 4)
    for missing, code in (
        (WEIGHTS, 4),
        (Path("unet/config.json"), 1),
        (Path("scheduler/scheduler_config.json"), 1),
    ):
        folder = tiny_folder(tmp_path / missing.stem)
        (folder / missing).unlink()
        text = refused(dmq(*words("evaluate", folder, tmp_path / "out")), code)
        assert missing.name in text and str(folder) in text
    assert not (tmp_path / "out" / "artifacts").exists()


def test_weights_that_do_not_fit_or_are_not_numbers(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "broken")
    tensors = load_file(folder / WEIGHTS)
    for change, part in (
        ({"conv_in.weight": torch.zeros(8, 1, 5, 5)}, "wrong shape"),
        ({"conv_in.weight": torch.full((8, 1, 3, 3), torch.nan)}, "conv_in.weight"),
    ):
        save_file({**tensors, **change}, folder / WEIGHTS)
        result = dmq(*words("evaluate", folder, tmp_path / "out"))
        assert result.code == 1 and part in result.sentence
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000])
    result = dmq(*words("evaluate", folder, tmp_path / "out"))
    assert result.code == 1 and "could not be read" in result.sentence
    assert set(artifacts(tmp_path / "out").values()) <= {0}


def test_missing_inception_weights_are_refused_before_sampling(model: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference.npz"
    more = ["protocol=fid_torch_fidelity", "protocol.reference=mine", f"protocol.reference_path={reference}"]
    more += [f"protocol.extractor_path={tmp_path / 'inception.pth'}"]
    with counting() as ran:
        text = refused(dmq(*words("evaluate", model, tmp_path, *more)), 4)
        assert str(reference) in text and "protocol.reference_path" in text
        np.savez(reference, arr_0=np.zeros((2, 16, 16, 1), np.uint8))
        text = refused(dmq(*words("evaluate", model, tmp_path, *more)), 4)
    assert str(tmp_path / "inception.pth") in text and "https://" in text and "protocol.extractor_path" in text
    assert ran == []


def test_a_protocol_for_trying_things_out_has_no_place_in_a_table(model: Path, tmp_path: Path) -> None:
    with counting() as ran:
        text = refused(dmq(*words("evaluate", model, tmp_path, "protocol=smoke", "table.name=mine")), 2)
    assert "table mine" in text and "protocol=smoke" in text and "never tabulated" in text and ran == []


@pytest.mark.parametrize("sha256", ["0" * 64, "1234"])
def test_extractor_weights_with_another_hash_are_refused_before_sampling(
    sha256: str, model: Path, tmp_path: Path
) -> None:
    with counting() as ran:
        text = refused(dmq(*words("evaluate", model, tmp_path, f"protocol.extractor_sha256='{sha256}'")), 1)
    assert f"digits_cnn must have the sha256 {sha256}, but" in text and "dmq train" in text and ran == []


def test_interrupted(model: Path, tmp_path: Path) -> None:
    with failing(KeyboardInterrupt()):
        text = refused(dmq(*words("evaluate", model, tmp_path)), 1)
    assert text.startswith("Interrupted") and "same command" in text
    status = json.loads(next(tmp_path.glob("runs/evaluate/*/status.json")).read_text(encoding="utf-8"))
    assert status["status"] == "failed: KeyboardInterrupt"


def test_a_full_disk(model: Path, tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file")
    with patch.object(quantize, "save_tensors", side_effect=full):
        result = dmq(*words("evaluate", model, tmp_path))
    assert result.code == 1 and "/some/file: No space left" in result.sentence
    assert "same command" in result.sentence
    assert artifacts(tmp_path)["sample_fp"] == 1, "what was finished is kept"
    with counting() as ran:
        assert dmq(*words("evaluate", model, tmp_path)).code == 0
    assert "sample_fp" not in ran and "calibset" not in ran
    with patch("dmq_cli.stages.results.write_grid", side_effect=full):  # outside of any stage
        assert "No space left on device at /some/file" in dmq(*words("evaluate", model, tmp_path)).sentence


def test_outputs_that_is_no_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(dmq(*words("evaluate", model, tmp_path / "file")), 1)


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("folder", "Is a directory at {}/folder;"),
        ("file/page.html", "File exists at {}/file;"),
        ("file/more/page.html", "Not a directory at {}/file/more;"),
        ("n" * 300, "File name too long at {}/"),
    ],
)
def test_a_page_that_cannot_be_written(target: str, part: str, tmp_path: Path) -> None:
    from dmq_cli.sentences import describe_error
    from dmq_cli.store.files import write_text

    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / target, "text")
    assert (description := describe_error(caught.value)) is not None
    assert description[1] == 1 and part.format(tmp_path) in description[0]


def test_a_file_that_lacks_is_a_bug_but_a_folder_that_lacks_is_not(tmp_path: Path) -> None:
    from dmq_cli.sentences import describe_error

    for bug in (FileNotFoundError(errno.ENOENT, "No", str(tmp_path / "gone")), FileExistsError("no file named")):
        assert describe_error(bug) is None
    lacking = describe_error(
        FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "none" / "page.html"))
    )
    assert lacking is not None and f"{tmp_path}/none/page.html" in lacking[0]


def test_a_bug_keeps_its_traceback(model: Path, tmp_path: Path) -> None:
    with failing(ZeroDivisionError("a bug")), pytest.raises(ZeroDivisionError):
        dmq(*words("evaluate", model, tmp_path))


def test_nan_in_activations(model: Path, tmp_path: Path) -> None:
    original = quantize.calibset

    def poisoned(task: Task) -> None:
        from dmq_cli.models import ModelDenoiser

        with patch.object(ModelDenoiser, "__call__", lambda self, sample, *rest: sample * torch.nan):
            original(task)

    node = nodes.NODES["calibset"]
    with patch.dict(nodes.NODES, {"calibset": type(node)(node.name, node.reads, poisoned)}):
        result = dmq(*words("calibrate", model, tmp_path))
    assert result.code == 1 and "not finite" in result.sentence
