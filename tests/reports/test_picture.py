"""samples.png of a table: made of the images that are at hand, kept where some are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmq_cli.report.picture import picture
from dmq_cli.store import write_json
from dmq_cli.store.recorded import read_object
from tests.reports import runs

METHODS = ("minmax", "tac")


def cell(outputs: Path, method: str, shade: int, bits: str = "w3a8", fd: float = 0.6) -> Path:
    """A finished cell whose images, all of one shade, are at hand; returns their artifact's folder."""
    folder = runs.cell(outputs, "t", runs.metrics(method, bits, fd))
    name = f"{method}-{bits}"
    names = {"sample_fp-0-1999": "full", "sample-0-1999": name}
    write_json(folder / "metrics.json", {**read_object(folder / "metrics.json"), "artifacts": names})
    for stage, key, value in (("sample_fp", "full", 10), ("sample", name, shade)):
        place = outputs / "artifacts" / stage / key
        place.mkdir(parents=True, exist_ok=True)
        np.savez(place / "images.npz", arr_0=np.full((20, 8, 8, 3), value, dtype=np.uint8))
    return outputs / "artifacts" / "sample" / name


def colours(path: Path) -> set[int]:
    """The shades of whole images: those of more pixels than the letters beside them have of one."""
    shades, counts = np.unique(np.asarray(Image.open(path).convert("L")), return_counts=True)
    return {int(shade) for shade in shades[counts > 500]}


@pytest.mark.parametrize("missing", METHODS)
def test_a_picture_is_kept_where_images_of_a_cell_are_not_at_hand(missing: str, tmp_path: Path) -> None:
    places = {method: cell(tmp_path, method, shade) for method, shade in zip(METHODS, (90, 170), strict=True)}
    table = tmp_path / "tables" / "t"
    assert picture(table) == table / "samples.png"
    whole = (table / "samples.png").read_bytes()
    assert {10, 90, 170} <= colours(table / "samples.png")
    shutil.rmtree(places[missing])
    assert picture(table) is None and (table / "samples.png").read_bytes() == whole
    (table / "samples.png").unlink()
    assert picture(table) == table / "samples.png"  # better than none
    assert len({10, 90, 170} & colours(table / "samples.png")) == 2
    cell(tmp_path, missing, 220)
    assert picture(table) and {10, 220} <= colours(table / "samples.png")


def test_there_is_no_picture_without_images(tmp_path: Path) -> None:
    shutil.rmtree(cell(tmp_path, "tac", 90))
    assert picture(tmp_path / "tables" / "t") is None and not (tmp_path / "tables" / "t" / "samples.png").exists()


def test_of_many_cells_those_at_the_telling_bits_are_shown(tmp_path: Path) -> None:
    for number in range(7):
        cell(tmp_path, f"m{number}", 100 + 10 * number, "w8a8")
        cell(tmp_path, f"m{number}", 101 + 10 * number, "w3a8", fd=9.0 if number else 0.5)
    table = tmp_path / "tables" / "t"
    assert picture(table)
    shades = colours(table / "samples.png")
    assert {101 + 10 * number for number in range(7)} <= shades
    assert not {100 + 10 * number for number in range(7)} & shades
