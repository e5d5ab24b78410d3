from __future__ import annotations

import enum
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmq_cli.errors import ConfigError
from dmq_cli.store import canonical, digest, file_sha256

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Color(str, enum.Enum):
    RED = "red"


def test_canonical_text_is_pinned() -> None:
    value = {"b": (1, 2.5, None), "a": {"z": True, "é": "ß"}, "c": 1e-7}
    assert canonical(value) == '{"a":{"z":true,"\\u00e9":"\\u00df"},"b":[1,2.5,null],"c":1e-07}'
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad808"


@given(PLAIN)
@settings(deadline=None, max_examples=60)
def test_canonical_round_trips(value: Any) -> None:
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text


@given(st.dictionaries(st.text(), SCALARS, min_size=2))
@settings(deadline=None, max_examples=30)
def test_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)


def test_what_is_equal_and_what_is_not() -> None:
    assert digest([1, (2, 3)]) == digest((1, [2, 3]))
    different = [1, 1.0, True, "1", [1], {"1": 1}, None, 0.0, -0.0, "", [], {}]
    assert len({digest(value) for value in different}) == len(different)
    assert len(digest(1, length=8)) == 8
    assert digest(1).startswith(digest(1, length=8))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": [0.0, math.nan]}, r"'a\[1\]' holds nan"),
        ({"a": {"b": -math.inf}}, "'a.b' holds -inf"),
        (np.float64(1.0), "top level holds a float64"),
        ({"a": {1: 2}}, "'a' holds the key 1 of type int"),
        ([Path("x")], r"'\[0\]' holds a PosixPath"),
        ({"c": Color.RED}, "'c' holds a Color"),
        ({"s": {1, 2}}, "'s' holds a set"),
    ],
)
def test_refuses_what_has_no_one_text(value: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        canonical(value)


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_file_sha256(tmp_path: Path, size: int) -> None:
    content = bytes(size % 251 for _ in range(size))
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    assert file_sha256(str(tmp_path / "x")) == hashlib.sha256(content).hexdigest()
