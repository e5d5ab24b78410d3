"""What models are told: balanced classes, lines of prompts, and the folders and settings that are refused."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from dmq_cli.errors import ConfigError, DmqError, ModelError
from dmq_cli.models.conditions import Classes, load_conditions
from dmq_cli.obtain import WEIGHTS
from dmq_cli.store.tensors import load_tensors, save_tensors
from tests import pipelines
from tests.chain import tiny_folder
from tests.tiny import one_sentence


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10, 12, 100, 1000])
def test_classes_are_balanced_and_spread(count: int) -> None:
    classes = Classes(range(count), none=count)
    for start in (0, 5, 1_000_000):
        labels = [int(label) for label in classes.subjects(range(start, start + 3 * count))]
        assert set(Counter(labels).values()) == {3}, "any run of whole rounds has each class equally often"
    few = sorted(int(label) for label in classes.subjects(range(1_000_000, 1_000_000 + min(count, 20))))
    gaps = [b - a for a, b in itertools.pairwise(few)]
    assert max(gaps, default=0) <= 3 * count / len(few), "and a short run is spread over all classes"


def test_chosen_classes_alone(tmp_path: Path) -> None:
    path = pipelines.transformer(tmp_path)
    conditions = load_conditions(path, [3, 7], None)
    assert conditions is not None and sorted(conditions.subjects(range(4))) == ["3", "3", "7", "7"]
    assert conditions.none()["class_labels"].tolist() == [pipelines.CLASSES]
    assert conditions.of(range(4))["class_labels"].tolist() == [int(label) for label in conditions.subjects(range(4))]


def test_tokens_come_from_the_embedding(tmp_path: Path) -> None:
    path = pipelines.tokens(tmp_path)
    conditions = load_conditions(path, None, None)
    assert conditions is not None
    rows, table = (
        conditions.of(range(5))["encoder_hidden_states"],
        torch.stack([conditions.none()["encoder_hidden_states"][0]]),
    )
    assert rows.shape == (5, 1, 64) and len({tuple(row.flatten().tolist()) for row in rows}) == 5
    assert not any(torch.equal(row, table[0]) for row in rows)


def test_prompts_line_by_line(tmp_path: Path) -> None:
    path = pipelines.prompts(tmp_path / "model")
    (tmp_path / "mine.txt").write_text("a handwritten seven\n  the digit 2 \n\n", encoding="utf-8")
    conditions = load_conditions(path, None, str(tmp_path / "mine.txt"))
    assert conditions is not None
    assert conditions.subjects(range(3)) == ["a handwritten seven", "the digit 2", "a handwritten seven"]
    rows = conditions.of(range(3))["encoder_hidden_states"]
    assert torch.equal(rows[0], rows[2]) and not torch.allclose(rows[0], rows[1])
    assert not torch.allclose(conditions.none()["encoder_hidden_states"][0], rows[0])


def refused(path: Path, classes: list[int] | None = None, prompts: str | None = None) -> str:
    with pytest.raises(DmqError) as caught:
        load_conditions(path, classes, prompts)
    assert isinstance(caught.value, ConfigError | ModelError)
    return one_sentence(caught.value)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    plain, classed = tiny_folder(tmp_path / "plain"), pipelines.transformer(tmp_path / "classed")
    worded = pipelines.prompts(tmp_path / "worded")
    assert "has no classes" in refused(plain, classes=[1])
    assert "reads no texts" in refused(plain, prompts="prompts.txt")
    assert "reads no texts" in refused(classed, prompts="prompts.txt")
    assert "has no classes" in refused(worded, classes=[1], prompts=str(worded / "prompts.txt"))
    assert "class 10 is none of them" in refused(classed, classes=[3, 10])
    assert "class -1 is none of them" in refused(classed, classes=[-1])
    assert "the list is empty" in refused(classed, classes=[])
    assert "no texts were given" in refused(worded)


@pytest.mark.parametrize(
    ("content", "part"), [(b"", "holds no prompt"), (b" \n\n", "holds no prompt"), (b"caf\xe9", "not UTF-8")]
)
def test_prompt_files_that_cannot_be(tmp_path: Path, content: bytes, part: str) -> None:
    path = pipelines.prompts(tmp_path / "model")
    (tmp_path / "mine.txt").write_bytes(content)
    assert part in refused(path, prompts=str(tmp_path / "mine.txt"))
    assert "is no file" in refused(path, prompts=str(tmp_path / "other.txt"))


def test_folders_without_what_the_network_reads(tmp_path: Path) -> None:
    path = pipelines.tokens(tmp_path / "model")
    weights = path / "class_embedding" / WEIGHTS
    config = path / "class_embedding" / "config.json"
    config.write_text(json.dumps({"num_embeddings": 5, "embedding_dim": 64}), encoding="utf-8")
    assert "has the wrong shape for 1 tensors of the network in its config.json" in refused(path)
    weights.unlink()
    config.unlink()
    config.parent.rmdir()
    assert "neither text_encoder/ nor class_embedding/" in refused(path)
    worded = pipelines.prompts(tmp_path / "worded")
    for file in (worded / "tokenizer").iterdir():
        file.unlink()
    (worded / "tokenizer").rmdir()
    assert "has no tokenizer/" in refused(worded, prompts=str(worded / "prompts.txt"))


def test_a_model_with_labels_of_its_own_has_no_class_for_none(tmp_path: Path) -> None:
    conditions = load_conditions(tiny_folder(tmp_path / "tiny", num_class_embeds=4), None, None)
    assert conditions is not None and sorted(conditions.subjects(range(4))) == ["0", "1", "2", "3"]
    with pytest.raises(ModelError, match="trained without one"):
        conditions.none()


def test_a_text_encoder_with_tensors_left_out(tmp_path: Path) -> None:
    path = pipelines.prompts(tmp_path / "model")
    file = path / "text_encoder" / "model.safetensors"
    tensors = load_tensors(file)
    gone = next(name for name in tensors if name.endswith("fc1.weight"))
    save_tensors(file, {name: value for name, value in tensors.items() if name != gone}, {"format": "pt"})
    conditions = load_conditions(path, None, str(path / "prompts.txt"))
    assert conditions is not None
    with pytest.raises(ModelError, match="has no values for 1 tensors"):
        conditions.of(range(1))
