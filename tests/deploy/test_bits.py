from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmq_cli.deploy.bits import pack, unpack
from dmq_cli.errors import ArtifactCorruptError
from tests.tiny import one_sentence


@given(st.integers(1, 16), st.data())
def test_codes_come_back_from_as_few_bytes_as_they_need(bits: int, draw: st.DataObject) -> None:
    values = draw.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    packed = pack(torch.tensor(values), bits)
    assert packed.dtype == torch.uint8 and len(packed) == -(-len(values) * bits // 8)
    assert unpack(packed, bits, (len(values),)).tolist() == values


def test_the_order_is_lowest_bit_first() -> None:
    """3 bits: 0b101 | 0b011 << 3 | 0b110 << 6 = 0b1_1001_1101, so the bytes are 0x9d and 0x01."""
    assert pack(torch.tensor([[5.0, 3.0, 6.0]]), 3).tolist() == [0x9D, 0x01]
    assert pack(torch.tensor([1, 15, 2]), 4).tolist() == [0xF1, 0x02]
    assert unpack(torch.tensor([0xF1, 0x02], dtype=torch.uint8), 4, (3, 1)).tolist() == [[1], [15], [2]]


@pytest.mark.parametrize(("values", "bits"), [([4], 2), ([-1], 8), ([1], 0), ([1], 17)])
def test_what_does_not_fit_is_refused(values: list[int], bits: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        pack(torch.tensor(values), bits)


@pytest.mark.parametrize(
    "packed", [torch.zeros(2, dtype=torch.uint8), torch.zeros(1), torch.zeros(1, 1, dtype=torch.uint8)]
)
def test_another_length_or_kind_is_refused(packed: torch.Tensor) -> None:
    with pytest.raises(ArtifactCorruptError, match="codes of 4 bits were expected") as caught:
        unpack(packed, 4, (2,))
    one_sentence(caught.value)
