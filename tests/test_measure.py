"""dmq measure: which images are read, and which of them are held against which prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from dmq_cli.models import DigitsCNN
from dmq_cli.paths import resolve
from dmq_cli.zoo.digits import digit_images
from tests.chain import ONLY_FD, dmq

COUNT = 40
FEW = [f"protocol.num_images={COUNT}", *ONLY_FD]
ASKED = [*FEW, "+metric@protocol.metrics.agreement=agreement"]


@pytest.fixture(scope="module")
def digits() -> tuple[Any, list[int]]:
    """Real digits, uint8 (COUNT, 16, 16, 1), and what they show, ordered so that neighbours differ."""
    images, labels = digit_images()[:2]
    return images[:COUNT].permute(0, 2, 3, 1).contiguous().numpy(), labels[:COUNT].tolist()


@pytest.fixture
def made(tmp_path: Path, digits: tuple[Any, list[int]]) -> Path:
    """`d` with 0.png to 39.png, `d.npz` with the same, `p.txt` with their prompts."""
    images, labels = digits
    (tmp_path / "d").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / "d" / f"{index}.png")
    np.savez(tmp_path / "d.npz", arr_0=images)
    (tmp_path / "p.txt").write_text("".join(f"a photo of a {label}\n" for label in labels), encoding="utf-8")
    return tmp_path


def measured(folder: Path, what: str, *more: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        dmq("measure", str(folder / what), *(ASKED if "--prompts" in more else FEW), *more, "--json").out
    )
    return record


def classified(images: Any, labels: list[int]) -> float:
    """How often the classifier reads the label, from its weights and nothing of the evaluator."""
    network = DigitsCNN().eval()
    network.load_state_dict(safetensors.torch.load_file(resolve("package:zoo/weights/digits_cnn/model.safetensors")))
    with torch.no_grad():
        read = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)[1].argmax(1)
    return float((read == torch.tensor(labels)).double().mean())


def test_each_file_is_held_against_the_line_of_its_number(made: Path, digits: tuple[Any, list[int]]) -> None:
    expected = classified(*digits)
    prompts = ["--prompts", str(made / "p.txt")]
    folder, archive = measured(made, "d", *prompts), measured(made, "d.npz", *prompts)
    assert folder["numbers"] == archive["numbers"] and folder["numbers"]["agreement"] == expected > 0.9
    (made / "p.txt").write_bytes(b"\xef\xbb\xbf" + (made / "p.txt").read_bytes().replace(b"\n", b"\r\n"))
    assert measured(made, "d", *prompts)["numbers"]["agreement"] == expected
    for file in sorted((made / "d").iterdir(), reverse=True):  # a number that no sorting puts in order
        file.rename(file.with_name(f"x{97 * int(file.stem) % COUNT}_{int(file.stem)}_.png"))
    (made / "d" / "x0_0_.png").rename(made / "d" / "x5_0_.png")
    assert measured(made, "d", *prompts)["numbers"]["agreement"] == expected


def test_names_that_shift_the_prompts_are_refused(made: Path) -> None:
    (made / "d" / "7.png").rename(made / "d" / "40.png")
    refused = dmq("measure", str(made / "d"), *ASKED, "--prompts", str(made / "p.txt"))
    assert refused.code == 1 and "do not run from 0 to 39 (7 is missing" in refused.sentence
    assert dmq("measure", str(made / "d"), *FEW).code == 0


def test_prompts_of_other_seeds_than_those_beside_the_images_are_refused(made: Path) -> None:
    lines = (made / "p.txt").read_text(encoding="utf-8").splitlines()
    prompts = ["--prompts", str(made / "p.txt")]
    (made / "asked.json").write_text(json.dumps({"asked": lines}), encoding="utf-8")
    assert measured(made, "d.npz", *prompts)["numbers"]["agreement"] > 0.9
    for texts, part in (
        ([*lines[1:], lines[0]], "Image 0 was sampled from 'a photo of a"),
        (lines[:-1], "should say of 40 images"),
        ("[" * 9, "should say of 40 images"),
    ):
        (made / "asked.json").write_text(json.dumps({"asked": texts}), encoding="utf-8")
        refused = dmq("measure", str(made / "d.npz"), *ASKED, *prompts)
        assert refused.code == 1 and part in refused.sentence


def test_what_lies_beside_the_images_is_said(made: Path) -> None:
    for name in (".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/._1.png", "list.txt", "a.json", "b.json"):
        (made / "d" / name).parent.mkdir(exist_ok=True)
        (made / "d" / name).write_bytes((made / "d" / "0.png").read_bytes())
    record = measured(made, "d")
    assert record["images"]["skipped"] == {"hidden": 2, ".json": 2, ".txt": 1}
    assert record["images"]["count"] == COUNT and record["images"]["size"] == [16, 16, 1]
    colour = Image.open(made / "d" / "0.png").convert("RGB")
    colour.save(made / "d" / "0.png")
    printed = dmq("measure", str(made / "d"), *FEW).out.splitlines()
    assert printed[-2] == f"images: 40 of {made / 'd'} of mixed kinds (RGB 1, grey 39)"
    assert printed[-1] == "skipped: 2 hidden, 3 other files (.json 2, .txt 1)"


def test_a_reference_of_linked_classes_is_that_of_the_same_files(made: Path) -> None:
    (made / "set" / "a").mkdir(parents=True)
    for index in range(20, COUNT):
        (made / "d" / f"{index}.png").rename(made / "set" / "a" / f"{index}.png")
    (made / "set" / "b").symlink_to(made / "d", target_is_directory=True)
    (made / "set" / "b" / "round").symlink_to(made / "set", target_is_directory=True)
    (made / "set" / ".DS_Store").touch()
    built = dmq("reference", "build", str(made / "set"), "--as", "r", "--to", str(made / "r.safetensors"))
    assert built.code == 0 and {"count: 40", "skipped: 1 hidden, 1 folders met before"} <= set(built.out.splitlines())
    shown = dmq("reference", "show", str(made / "r.safetensors"))
    assert "skipped: 1 hidden, 1 folders met before" in shown.out and "kinds: {'grey': 40}" in shown.out
    near = measured(made, "d.npz", "--reference", str(made / "r.safetensors"))
    assert near["numbers"]["fd"] == pytest.approx(0, abs=1e-4)


def test_counts_and_sizes_are_looked_at_before_images(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmq_cli.metrics.reading.npz.read_batches", lambda *_: pytest.fail("images were read"))
    monkeypatch.setattr("dmq_cli.metrics.reading.image_files.decoded", lambda *_: pytest.fail("images were read"))
    np.savez(made / "wide.npz", arr_0=np.zeros((COUNT, 32, 32, 3), np.uint8))
    for what, few, part in (
        ("d", ONLY_FD, "exactly 2000 images, but 40"),
        ("d.npz", ONLY_FD, "exactly 2000 images, but 40"),
        ("wide.npz", FEW, "reads grey or RGB images of 16x16 pixels, but those of"),
    ):
        refused = dmq("measure", str(made / what), *few)
        assert refused.code == 1 and part in refused.sentence
    refused = dmq("reference", "build", str(made / "wide.npz"), "--as", "r", "--to", str(made / "r.safetensors"))
    assert refused.code == 1 and "of 16x16 pixels" in refused.sentence


def test_what_a_strangers_record_says_does_not_steer_the_terminal(made: Path) -> None:
    from dmq_cli.metrics.references.own import save_reference

    tensors = {"mu.features": torch.zeros(2), "sigma.features": torch.eye(2), "features": torch.zeros(9, 2)}
    record = {
        "count": 9,
        "features": 9,
        "images_sha256": "0" * 64,
        "source": "\x1b[2J",
        "\x1bx": "\u202e",
        "kinds": None,
    }
    save_reference(made / "r.safetensors", tensors, record)
    shown = dmq("reference", "show", str(made / "r.safetensors"))
    assert "source: \\x1b[2J" in shown.out and "\\x1bx: \\u202e" in shown.out and "\x1b" not in shown.out
