from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.models import sites
from tests.families import DIT_XL_2, adapter, cond, direct, meta, network
from tests.models.checks import check_names, check_temporal, check_units
from tests.tiny import data, one_sentence

BLOCKS = 2
COUNTS = {
    "edge.in": 1, "edge.out": 1,
    "time.embed_1": BLOCKS, "time.embed_2": BLOCKS, "time.modulation": BLOCKS + 1,
    **{role: BLOCKS for role in ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out", "ff.in", "ff.out", "attn")},
}  # fmt: skip


def test_every_layer_has_its_role() -> None:
    model = adapter("dit")
    check_names(model)
    assert Counter(layer.role for layer in model.layers() + model.attentions()) == COUNTS
    assert len(sites(model)) == 2 * 21 + 4 * 2
    named = {site.name: (site.label, site.part) for site in sites(model)}
    assert named["transformer_blocks.1.norm1.linear.weight_quantizer"] == ("time.modulation.weight", "block")
    assert named["proj_out_1.input_quantizer"] == ("time.modulation.input", "edge")
    assert named["transformer_blocks.0.attn1.q_quantizer"] == ("attn.q", "block")


def test_units() -> None:
    model = adapter("dit")
    expected = ["pos_embed.proj", "transformer_blocks.0", "transformer_blocks.1", "proj_out_1", "proj_out_2"]
    assert check_units(model) == expected
    assert model.skip_splits() == {} and model.sample_shape() == (2, 8, 8)


def test_the_modulations_are_those_of_a_forward_pass() -> None:
    model = adapter("dit")
    names = [layer.name for layer in model.layers() if layer.role == "time.modulation"]
    assert len(names) == BLOCKS + 1
    check_temporal(model, names, torch.tensor([0, 999, 3, 500, 3]), cond("dit", 5))
    modulations, other = (
        model.temporal(torch.tensor([7]), {"class_labels": torch.tensor([label])}) for label in (0, 10)
    )
    assert not any(torch.allclose(modulations[name], other[name]) for name in names)


def test_from_timesteps_alone_there_is_no_modulation() -> None:
    with pytest.raises(ModelError, match=r"depend on the class as well .* use recon\.temporal=block") as caught:
        adapter("dit").temporal(torch.tensor([7]))
    one_sentence(caught.value)


@pytest.mark.parametrize("at", [torch.tensor(7), torch.tensor([7]), torch.tensor([7, 7, 7])], ids=str)
@pytest.mark.parametrize("channels", [2, 4], ids=["noise", "noise and variance"])
def test_predict_is_the_networks_noise_bit_for_bit(at: Tensor, channels: int) -> None:
    condition, sample = cond("dit", 3), data(3)[0]
    noise = adapter("dit", out_channels=channels).predict(sample, at, condition)
    whole = direct("dit", network("dit", out_channels=channels), sample, torch.tensor([7, 7, 7]), condition)
    assert whole.shape[1] == channels and noise.shape == sample.shape
    assert torch.equal(noise, whole[:, :2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "takes conditions by name: class_labels, but class_labels was not given"),
        ({"class_labels": torch.tensor([1])}, "class_labels has 1 rows for 3 samples"),
        ({**(cond("dit", 3) or {}), "encoder_hidden_states": torch.zeros(3)}, "but encoder_hidden_states was given"),
    ],
    ids=["none", "rows", "unknown"],
)
def test_a_condition_that_does_not_fit(given: object, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        adapter("dit").predict(data(3)[0], torch.tensor(7), given)
    one_sentence(caught.value)


def test_dit_xl_2() -> None:
    model = meta("dit", **DIT_XL_2)
    assert sum(p.numel() for p in model.model.parameters()) == 749_826_464
    check_names(model)
    assert (len(model.layers()), len(model.attentions())) == (1 + 28 * 9 + 2, 28)
    blocks = [f"transformer_blocks.{i}" for i in range(28)]
    assert model.units() == ["pos_embed.proj", *blocks, "proj_out_1", "proj_out_2"]
