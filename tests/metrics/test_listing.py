"""Which files of a folder count, and what is said of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.reading.listing import list_images, tell_skipped


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in list_images(folder).files]


def test_what_is_hidden_or_no_image_is_counted_apart(tmp_path: Path) -> None:
    hidden = [".ipynb_checkpoints/a-checkpoint.png", ".ipynb_checkpoints/deep/b.png", "__MACOSX/._a.png", "b/._a.png"]
    hidden += [".DS_Store", "Thumbs.db", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg"]
    touch(
        tmp_path, "a.png", "b/c.JPG", "b/d.jfif", "e.WebP", "list.txt", "b/more.TXT", "labels.json", "README", *hidden
    )
    assert names(tmp_path) == ["a.png", "b/c.JPG", "b/d.jfif", "e.WebP"]
    skipped = list_images(tmp_path).skipped
    assert skipped == {"hidden": len(hidden), ".txt": 2, ".json": 1, "no suffix": 1}
    assert tell_skipped(skipped) == "7 hidden, 4 other files (.json 1, .txt 2, no suffix 1)"
    assert tell_skipped({}) == "" and list_images(tmp_path / "b" / ".." / ".ipynb_checkpoints").files != ()


def test_links_are_followed_and_each_folder_counts_once(tmp_path: Path) -> None:
    data = touch(tmp_path / "elsewhere", "1.png", "below/2.png")
    folder = touch(tmp_path / "set", "a/3.png", "z/4.png")
    (folder / "class").symlink_to(data, target_is_directory=True)
    (folder / "again").symlink_to(data, target_is_directory=True)
    (folder / "inside").symlink_to(data / "below", target_is_directory=True)
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "0").symlink_to(folder / "z", target_is_directory=True)
    (data / "round").symlink_to(data, target_is_directory=True)
    (folder / "loop").symlink_to("loop")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "5.png").symlink_to(data / "1.png")
    assert names(folder) == ["5.png", "a/3.png", "again/1.png", "again/below/2.png", "z/4.png"]
    assert list_images(folder).skipped == {"broken links or devices": 2, "folders met before": 5}


def test_links_between_many_folders_do_not_multiply(tmp_path: Path) -> None:
    for level in range(30):
        folder = touch(tmp_path / f"l{level}", "x.png")
        for side in "ab":
            (folder / side).symlink_to(tmp_path / f"l{level + 1}", target_is_directory=True)
    assert len(list_images(tmp_path / "l0").files) == 30


def test_a_hidden_folder_may_hold_what_links_lead_to(tmp_path: Path) -> None:
    touch(tmp_path, ".store/x/1.png", ".store/y.png")
    (tmp_path / "class").symlink_to(tmp_path / ".store" / "x", target_is_directory=True)
    (tmp_path / "y.png").symlink_to(tmp_path / ".store" / "y.png")
    assert names(tmp_path) == ["class/1.png", "y.png"] and list_images(tmp_path).skipped == {"hidden": 2}


@pytest.mark.parametrize("name", ["a.gif", "a.TIF", "below/a.avif", "a.ppm", "a.bmp"])
def test_images_of_other_formats_are_never_left_out(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "b.png", name)
    with pytest.raises(EvaluationError, match=r"images are read from PNG, JPEG and WEBP; convert it"):
        list_images(tmp_path)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    touch(tmp_path, "folder.png/a.png", *(f"x.{number:03}" for number in range(50)))
    listing = list_images(tmp_path)
    assert len(listing.files) == 1 and listing.skipped["broken links or devices"] == 1
    assert sum(listing.skipped.values()) == 51 and len(listing.skipped) == 22
