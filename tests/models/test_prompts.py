"""Prompts files: line i is that of image i, or the file is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dmq_cli.errors import ConfigError
from dmq_cli.models.texts import read_prompts
from dmq_cli.paths import resolve


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\nb\nc", ["a", "b", "c"]),
        (b"a\r\nb\nc\r\n", ["a", "b", "c"]),
        (b"\xef\xbb\xbfa photo\nb\n", ["a photo", "b"]),
        (b"a\nb\n\n \r\n\t\n", ["a", "b"]),
        (b"  a  b\t\nc \n", ["a  b", "c"]),
        ("a\u2028b\nc\x0bd\ne\x0cf\ng\x1ch\x1di\x1ej\nk\x85l\nm\u2029n\n".encode(),
         ["a\u2028b", "c\x0bd", "e\x0cf", "g\x1ch\x1di\x1ej", "k\x85l", "m\u2029n"]),
        ("één, «x»\n猫\n".encode(), ["één, «x»", "猫"]),
    ],
)  # fmt: skip
def test_only_line_feeds_end_a_line(data: bytes, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(data)
    assert read_prompts(str(tmp_path / "p.txt")) == expected


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"a\n\nb\n", "line 2 is blank"),
        (b"\na\n", "line 1 is blank"),
        (b"a\r\nb\r\n \t\r\nc", "line 3 is blank"),
        ("a\n\u2028\nb".encode(), "line 2 is blank"),
        ("a\nb\n".encode("utf-16"), "is not UTF-8 (byte 0)"),
        ("a\nb\n".encode("utf-16-le"), "line 1 has a NUL"),
        (b"a\nb\0c\n", "line 2 has a NUL"),
        (b"a\rb\rc\r", "line 1 has a carriage return without a line feed"),
        ("a\n\ufeffb\n".encode(), "line 2 has a byte order mark"),
        (b"a\nb\xe9\n", "is not UTF-8 (byte 3)"),
        (b"\xef\xbb\xbf\n \n", "holds no prompt"),
        (b"", "holds no prompt"),
    ],
)
def test_files_whose_lines_would_not_be_those_of_the_images(data: bytes, part: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_prompts(str(tmp_path / "p.txt"), "--prompts")
    assert part in str(caught.value) and f"--prompts={tmp_path / 'p.txt'} " in str(caught.value)


def test_the_shipped_prompts_are_the_same_as_ever() -> None:
    path = "package:zoo/weights/sd_digits/prompts.txt"
    assert (
        hashlib.sha256("\n".join(read_prompts(path)).encode()).hexdigest()
        == "d499a5a8bf07b810195d545bb5d67dc918e118719c4393de87f865ea8901eaa5"
    )
    assert len(read_prompts(path)) == len(resolve(path).read_text(encoding="utf-8").splitlines()) == 50
