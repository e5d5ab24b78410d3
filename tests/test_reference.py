"""dmq reference: built from images, shown, and used by evaluation as if it were the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmq_cli import choices
from dmq_cli.errors import EvaluationError
from dmq_cli.metrics import Protocol, extractor_sha256, fidelity
from dmq_cli.stages import build, images
from dmq_cli.stages.find_reference import find_reference, real_images
from dmq_cli.stages.graph import Task
from dmq_cli.stages.progress import Progress
from dmq_cli.store import read_json
from dmq_cli.zoo.digits import digit_images
from tests.chain import ONLY_FD, counting, dmq, tiny_folder, words
from tests.metrics.helpers import digits, protocol

DIGITS = "d6c306fd169a8119c0a53b48c6553c57cfc870881e4e7ee0e1e631f6402d6eea"


def pngs(folder: Path, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{index:05}.png")
    return folder


def small(folder: Path) -> Path:
    return pngs(folder, digits(0, 3))


def test_the_embedded_reference_and_protocol_keep_their_names(tmp_path: Path) -> None:
    plan: Protocol = build.make(choices.protocol("digits"))
    reference = find_reference(plan, tmp_path)
    assert reference is not None and reference.sha256 == DIGITS
    assert plan.record(reference.sha256, extractor_sha256(plan))["hash"] == "abad2ad904322c33"
    assert real_images(plan, tmp_path).shape == (1797, 16, 16, 1)
    latent: Protocol = build.make(choices.protocol("digits_latent"))
    assert real_images(latent, tmp_path).shape == (1797, 32, 32, 1)


def evaluated(folder: Path, reference: str) -> Any:
    """numbers.json of the stage evaluate_fp on 60 real digits."""
    words = ["num_images=60", "metrics.is.splits=1", "metrics.kid.subset_size=50", "metrics.kid.subsets=4"]
    section = choices.protocol_with("digits", [f"protocol.{word}" for word in (*words, f"reference={reference}")])
    (work := folder / f"with-{reference}").mkdir()
    np.savez(work / "images.npz", arr_0=digits(0, 60))
    runtime = {"outputs": str(folder), "device": "cpu"}
    images.evaluate_fp(Task({"protocol": section}, {"sample_fp": work}, work, runtime, Progress(quiet=True)))
    return read_json(work / "numbers.json")


def test_build_show_evaluate_is_evaluation_with_the_images(tmp_path: Path) -> None:
    file = tmp_path / "references" / "mine.safetensors"
    result = dmq("reference", "build", "digits", "--as", "mine", "--to", str(file), "--json")
    record = json.loads(result.out)
    assert (result.code, result.err) == (0, "") and record["file"] == str(file) and record["count"] == 1797
    shown = json.loads(dmq("reference", "show", str(file), "--json").out)
    assert shown["sha256"] == DIGITS and shown["layout"] == "dmq" and shown["source"] == "digits"
    images, statistics = evaluated(tmp_path, "digits"), evaluated(tmp_path, "mine")
    assert statistics["numbers"] == pytest.approx(images["numbers"], rel=1e-7)
    assert statistics["protocol"] == {**images["protocol"], "reference": "mine"}, "the hash is the same, too"


def test_a_reference_that_was_not_built_is_refused_before_sampling(tmp_path: Path) -> None:
    with counting() as ran:
        wrong = dmq(*words("evaluate", tiny_folder(tmp_path / "tiny"), tmp_path, "protocol.reference=mine"))
    assert wrong.code == 4 and ran == []
    assert str(tmp_path / "references" / "mine.safetensors") in wrong.sentence
    assert "dmq reference build FOLDER --as mine" in wrong.sentence


def test_statistics_that_do_not_serve_are_refused_before_sampling(tmp_path: Path) -> None:
    model, file = tiny_folder(tmp_path / "tiny"), tmp_path / "clean.npz"
    np.savez(file, mu=np.zeros(64), sigma=np.eye(64))
    more = ["protocol.reference=lsun", f"protocol.reference_path={file}"]
    with counting() as ran:
        result = dmq(*words("evaluate", model, tmp_path, *more))
        other = dmq(*words("evaluate", model, tmp_path, f"++protocol.reference_sha256={'ab' * 32}"))
    assert (
        result.code == 1
        and "does not serve kid, prc; write protocol.metrics.kid=null protocol.metrics.prc=null" in result.sentence
    )
    assert other.code == 1 and f"{'ab' * 32}, but digits has {DIGITS}" in other.sentence
    assert ran == []


def test_a_folder_is_cut_scaled_and_recorded(tmp_path: Path) -> None:
    images = digits(0, 30)
    wide = np.pad(np.repeat(np.repeat(images, 2, axis=1), 2, axis=2), ((0, 0), (0, 0), (3, 3), (0, 0)))
    folder, file = pngs(tmp_path / "wide", wide), tmp_path / "real.safetensors"
    command = ["reference", "build", str(folder), "--as", "real", "--to", str(file), "--json"]
    refused = dmq(*command, "--resize", "16")
    assert refused.code == 1 and "38x32" in refused.sentence and "--crop center" in refused.sentence
    assert not file.exists()
    record = json.loads(dmq(*command, "--crop", "center", "--resize", "16", "--filter", "box").out)
    assert {key: record[key] for key in ("crop", "resize", "resize_filter", "to_uint8", "source_format")} == {
        "crop": "center", "resize": 16, "resize_filter": "box", "to_uint8": "round", "source_format": "PNG"
    }  # fmt: skip
    plain = tmp_path / "plain.safetensors"
    same = json.loads(dmq("reference", "build", str(pngs(tmp_path / "small", images)), "--as", "a", "--to", str(plain), "--json").out)  # fmt: skip
    assert record["images_sha256"] == same["images_sha256"], "means of equal pixels are the pixels"
    again = dmq(*command, "--crop", "center", "--resize", "16")
    assert again.code == 1 and "already" in again.sentence


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["build", "digits", "--as", "digits"], 2, "cannot be called digits"),
        (["build", "digits", "--as", "a", "--to", "noext"], 2, ".safetensors"),
        (["build", "digits", "--as", "a", "--to", "a.npz"], 2, ".safetensors"),
        (["build", "digits", "--as", "a/b"], 2, "cannot be called a/b"),
        (["build", "digits", "--as", "a", "--crop", "left"], 2, "no crop left"),
        (["build", "digits", "--as", "a", "--protocol", "digit"], 2, "Did you mean digits?"),
        (["build", "digits", "--as", "a", "--protocol", "fid_torch_fidelity"], 4, "https://"),
        (["build", "digits", "--as", "a", "--protocol", "coco30k"], 4, "weights-inception-2015"),
        (["build", "nowhere", "--as", "a"], 1, "neither a folder nor a file"),
        (["build", "empty", "--as", "a"], 1, "there is none in it"),
        (["build", "clean.npz", "--as", "a"], 1, "has none under arr_0"),
        (["show", "nothing"], 4, "dmq reference build"),
    ],
)
def test_bad_words(arguments: list[str], code: int, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "clean.npz", mu=np.zeros(3), sigma=np.eye(3))
    result = dmq("reference", *arguments)
    assert result.code == code and part in result.sentence
    assert not (tmp_path / "outputs").exists()


def test_files_of_others_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "stats.npz"
    np.savez(file, mu=np.zeros(3), sigma=np.eye(3), mu_s=np.zeros(2), sigma_s=np.eye(2), arr_0=digits(0, 4))
    record = json.loads(dmq("reference", "show", str(file), "--json").out)
    assert record["layout"] == "adm" and record["statistics"] == {"features": 3, "spatial": 2}
    assert "layout: adm" in dmq("reference", "show", str(file)).out


def test_the_doctor_sees_what_was_built(tmp_path: Path) -> None:
    for name in ("mine", "broken"):
        file = tmp_path / "references" / f"{name}.safetensors"
        assert dmq("reference", "build", str(small(tmp_path / name)), "--as", name, "--to", str(file)).code == 0
    file.write_bytes(file.read_bytes()[:-1])
    rows = json.loads(dmq("doctor", "--json", f"runtime.outputs={tmp_path}").out)["doctor"]
    references = {row["name"]: row for row in rows if row["kind"] == "reference"}
    assert references["mine"]["state"] == "present" and len(references["mine"]["sha256"]) == 64
    assert references["broken"]["state"] == "wrong" and "digits" in references


def test_samples_of_others_are_measured(tmp_path: Path) -> None:
    samples = pngs(tmp_path / "samples", digits(0, 250))
    command = ["measure", str(samples), "protocol.num_images=250"]
    record = json.loads(dmq(*command, "--json").out)
    plan = protocol(num_images=250, kid={"subset_size": 200, "subsets": 100})
    wanted = fidelity(digits(0, 250), real_images(plan, tmp_path), plan)
    assert {name: record["numbers"][name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert record["protocol"]["reference_sha256"] == DIGITS
    low, high = record["intervals"]["fd"]
    assert low < record["numbers"]["fd"] < high and set(record["intervals"]) == {"fd", "is", "kid", "precision"}
    lines = dmq(*command).out.splitlines()
    assert f"protocol: {record['protocol']['hash']}" in lines
    assert f"fd: {record['numbers']['fd']:.6g} [{low:.4g}, {high:.4g}]" in lines
    few = dmq("measure", str(samples))
    assert few.code == 1 and "exactly 2000 images, but 250" in few.sentence
    Image.fromarray(digits(0, 1)[0, ..., 0]).save(samples / "last.jpg")
    assert "is JPEG" in dmq(*command).sentence
    np.savez(tmp_path / "wide.npz", mu=np.zeros(80), sigma=np.eye(80))
    np.savez(tmp_path / "samples.npz", arr_0=digits(0, 250))
    command[1] = str(tmp_path / "samples.npz")
    assert "does not serve kid, prc" in dmq(*command, "--reference", str(tmp_path / "wide.npz")).sentence


def test_samples_of_others_are_held_against_their_prompts(tmp_path: Path) -> None:
    first = digit_images(32)[1][:50]
    np.savez(tmp_path / "real.npz", arr_0=real_images(build.make(choices.protocol("digits_latent")), tmp_path)[:100])
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a photo of a {digit}\n" for digit in first.tolist()), encoding="utf-8")
    command = ["measure", str(tmp_path / "real.npz"), "--protocol", "digits_latent", "protocol.num_images=100"]
    command += ONLY_FD
    record = json.loads(dmq(*command, "--prompts", str(prompts), "--json").out)
    assert set(record["numbers"]) == {"fd", "agreement"}, "50 lines serve 100 images"
    assert 0.45 < record["numbers"]["agreement"] < 0.75, "the first half shows what it should, of the second a tenth"
    unasked = dmq(*command)
    assert unasked.code == 2 and "asks for agreement" in unasked.sentence and "--prompts FILE" in unasked.sentence
    nothing = dmq(*command, "protocol.metrics.fd=null", "protocol.metrics.agreement=null")
    assert nothing.code == 2 and "+metric@protocol.metrics.NAME=NAME" in nothing.sentence
    twins = dmq(*command, "--prompts", str(prompts), "+metric@protocol.metrics.fd_to_twin=fd_to_twin")
    assert twins.code == 2 and "asks for fd_to_twin" in twins.sentence and "dmq evaluate" in twins.sentence
    assert "--prompts=nowhere" in dmq(*command, "--prompts", "nowhere").sentence


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("num_images=3", "write protocol.KEY=VALUE"),
        ("protocol.num_image=3", "There is no protocol.num_image in the configuration. Did you mean num_images?"),
        ("protocol.num_images=many", "protocol.num_images=many is not possible"),
        ("--device=toaster", "--device=toaster cannot be used here"),
    ],
)
def test_words_and_devices_that_cannot_be(tmp_path: Path, word: str, sentence: str) -> None:
    for command in (("measure", str(tmp_path)), ("reference", "build", str(tmp_path), "--as", "mine")):
        refused = dmq(*command, word)
        assert (refused.code, sentence in refused.sentence) == (2, True), refused.sentence


def test_images_of_statistics_cannot_be_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "clean.npz", mu=np.zeros(64), sigma=np.eye(64))
    plan = protocol(reference="lsun", reference_path=str(tmp_path / "clean.npz"), metrics=("fd",))
    with pytest.raises(EvaluationError, match="statistics alone; give one with images"):
        real_images(plan, tmp_path)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--protocol", "adm"], "protocol.reference=NAME"),
        (["--protocol", "fid_torch_fidelity"], "protocol.reference=NAME"),
    ],
)
def test_values_that_have_to_be_given_are_named(more: list[str], part: str, tmp_path: Path) -> None:
    result = dmq("measure", str(tmp_path), *more)
    assert result.code == 2 and part in result.sentence and "full_key" not in result.sentence


def test_files_of_something_else_are_told_without_advice_to_unpickle(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.zeros(4))
    (tmp_path / "text").write_text("root:x:0:0", encoding="utf-8")
    (tmp_path / "garbage.pt").write_bytes(b"garbage" * 99)
    np.savez(tmp_path / "cut.npz", arr_0=digits(0, 9))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-99])
    for verb, name in (("measure", "plain.npy"), ("measure", "text"), ("measure", "cut.npz"), ("show", "garbage.pt")):
        result = dmq(*(["reference"] if verb == "show" else []), verb, str(tmp_path / name))
        assert result.code == 1 and f"{name} was to be read as" in result.sentence
        assert "(it holds something else, is cut off, or would have to be unpickled)" in result.sentence
