from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.models import Adapter, CondUNetAdapter, UNetAdapter, fits, sites
from tests.families import LDM4_IMAGENET, SD14, TOKENS, adapter, cond, direct, meta, network
from tests.models.checks import check_names, check_splits, check_temporal, check_units
from tests.tiny import data, one_sentence

CHANGES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "two blocks a level": {"layers_per_block": 2},
    "linear projections": {"use_linear_projection": True},
    "plain attention": {"down_block_types": ("AttnDownBlock2D", "CrossAttnDownBlock2D")},
    "no cross-attention": {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
}
kinds = pytest.mark.parametrize("kind", CHANGES)
COUNTS = {
    "edge.in": 1, "edge.out": 1, "time.embed_1": 1, "time.embed_2": 1,
    "resnet.conv1": 8, "resnet.conv2": 8, "resnet.time_proj": 8, "resnet.shortcut": 5,
    **{f"attn.{part}": 4 for part in ("to_q", "to_k", "to_v", "to_out")},
    **{f"attn.cross.{part}": 4 for part in ("to_q", "to_k", "to_v", "to_out")},
    "ff.in": 4, "ff.out": 4, "transformer.proj_in": 4, "transformer.proj_out": 4,
    "down.conv": 1, "up.conv": 1, "attn": 4, "attn.cross": 4,
}  # fmt: skip


def make(kind: str) -> Adapter:
    return adapter("cond_unet", torch.float32, **CHANGES[kind])


@kinds
def test_every_layer_has_its_role(kind: str) -> None:
    unet = make(kind)
    check_names(unet)
    counts = Counter(layer.role for layer in unet.layers() + unet.attentions())
    if kind == "tiny":
        assert counts == COUNTS and len(sites(unet)) == 2 * 83 + 4 * 8
    cross = {"two blocks a level": 6, "no cross-attention": 0}.get(kind, 4)
    assert counts["attn.cross"] == counts["attn.cross.to_k"] == cross
    assert counts["attn"] == {"two blocks a level": 6, "plain attention": 5, "no cross-attention": 3}.get(kind, 4)


def test_labels_and_parts() -> None:
    named = {site.name: (site.label, site.part) for site in sites(make("tiny"))}
    block = "up_blocks.0.attentions.1.transformer_blocks.0"
    assert named[f"{block}.attn2.to_k.weight_quantizer"] == ("attn.cross.to_k.weight", "up")
    assert named[f"{block}.attn2.prob_quantizer"] == ("attn.cross.prob", "up")
    assert named[f"{block}.attn1.to_k.weight_quantizer"] == ("attn.to_k.weight", "up")
    assert named[f"{block}.ff.net.0.proj.input_quantizer"] == ("ff.in.input", "up")
    assert named["mid_block.attentions.0.proj_in.input_quantizer"] == ("transformer.proj_in.input", "mid")


@pytest.mark.parametrize(
    ("patterns", "cross", "own"),
    [
        ("attn.*", True, True),
        ("attn.prob", True, True),
        ("attn.q|attn.k|attn.v|attn.prob", True, True),
        ("attn.cross.*", True, False),
        ("attn.cross.prob", True, False),
        ("attn.to_*", False, False),
        ("*", True, True),
    ],
)
def test_a_cross_attention_is_an_attention(patterns: str, cross: bool, own: bool) -> None:
    assert (fits("attn.cross.prob", patterns), fits("attn.prob", patterns)) == (cross, own)
    assert fits("attn.cross.to_q.input", "attn.to_*.input") and not fits("attn.cross.to_q.input", "attn.to_k.*")


@kinds
def test_units(kind: str) -> None:
    units = check_units(make(kind))
    transformers = [unit for unit in units if unit.endswith("transformer_blocks.0")]
    assert len(transformers) == {"two blocks a level": 6, "no cross-attention": 0}.get(kind, 4)
    if kind == "plain attention":
        assert "down_blocks.0.attentions.0" in units


@kinds
def test_skip_splits_are_the_tensors_that_are_joined(kind: str) -> None:
    assert check_splits(make(kind)) == {"two blocks a level": 6}.get(kind, 4)


@pytest.mark.parametrize(
    "changes",
    [{}, {"resnet_time_scale_shift": "scale_shift"}, {"time_embedding_act_fn": "silu"}, {"resnet_skip_time_act": True}],
    ids=str,
)
def test_the_projections_of_the_timestep_are_those_of_a_forward_pass(changes: dict[str, Any]) -> None:
    unet = adapter("cond_unet", **changes)
    names = [layer.name for layer in unet.layers() if layer.role == "resnet.time_proj"]
    assert len(names) == 8
    check_temporal(unet, names, torch.tensor([0, 999, 3, 500, 3]), cond("cond_unet", 5))
    check_temporal(unet, names, torch.tensor([7]))


@pytest.mark.parametrize("joined", [False, True], ids=["added", "joined"])
def test_classes_are_part_of_the_projections(joined: bool) -> None:
    unet = adapter("cond_unet", num_class_embeds=5, class_embeddings_concat=joined)
    names = [layer.name for layer in unet.layers() if layer.role == "resnet.time_proj"]
    condition = {**(cond("cond_unet", 3) or {}), "class_labels": torch.tensor([4, 0, 2])}
    check_temporal(unet, names, torch.tensor([7, 7, 900]), condition)
    with pytest.raises(ModelError, match="class_labels was not given"):
        unet.temporal(torch.tensor([7]))


@pytest.mark.parametrize("at", [torch.tensor(7), torch.tensor([7]), torch.tensor([7, 7, 7])], ids=str)
def test_predict_is_the_network_bit_for_bit(at: Tensor) -> None:
    condition, model = cond("cond_unet", 3), network("cond_unet")
    sample = data(3)[0]
    estimate = adapter("cond_unet").predict(sample, at, condition)
    assert torch.equal(estimate, direct("cond_unet", model, sample, torch.tensor([7, 7, 7]), condition))
    assert estimate.shape == sample.shape
    other = adapter("cond_unet").predict(sample, at, {"encoder_hidden_states": torch.zeros(3, TOKENS, 12)})
    assert not torch.allclose(estimate, other)


def test_a_mask_hides_tokens() -> None:
    condition = cond("cond_unet", 3) or {}
    sample, unet = data(3)[0], adapter("cond_unet")
    mask = torch.tensor([True, True, False, False, False]).expand(3, -1)
    hidden = unet.predict(sample, torch.tensor(7), {**condition, "encoder_attention_mask": mask})
    short = unet.predict(sample, torch.tensor(7), {"encoder_hidden_states": condition["encoder_hidden_states"][:, :2]})
    assert torch.allclose(hidden, short, rtol=0, atol=1e-12)
    assert not torch.allclose(hidden, unet.predict(sample, torch.tensor(7), condition))


BAD: dict[str, tuple[object, str]] = {
    "none": (None, "takes conditions by name: encoder_hidden_states, but encoder_hidden_states was not given"),
    "a tensor": (torch.zeros(3, 5, 12), "encoder_hidden_states was not given"),
    "unknown": ({**(cond("cond_unet", 3) or {}), "class_labels": torch.zeros(3)}, "but class_labels was given"),
    "rows": (cond("cond_unet", 1), "encoder_hidden_states has 1 rows for 3 samples"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_condition_that_does_not_fit(kind: str) -> None:
    condition, message = BAD[kind]
    with pytest.raises(ModelError, match=message) as caught:
        adapter("cond_unet").predict(data(3)[0], torch.tensor(7), condition)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_embed_type": "timestep"},
        {"encoder_hid_dim": 12, "encoder_hid_dim_type": "text_proj"},
        {"time_cond_proj_dim": 4},
        {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
    ],
    ids=str,
)
def test_what_has_no_role_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="of this UNet2DConditionModel has no role in dmq") as caught:
        adapter("cond_unet", **changes).layers()
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("architecture", "parameters", "shortcuts"),
    [(SD14, 859_520_964, 2 + 12), (LDM4_IMAGENET, 400_920_579, 3 + 12)],
    ids=["Stable Diffusion 1.4", "LDM-4 ImageNet"],
)
def test_published_networks(architecture: dict[str, Any], parameters: int, shortcuts: int) -> None:
    """22 residual blocks and 16 transformers of 12 layers; a unit each, but for the two projections of a transformer."""
    unet = meta("cond_unet", **architecture)
    assert sum(p.numel() for p in unet.model.parameters()) == parameters
    check_names(unet)
    assert len(unet.layers()) == 4 + 22 * 3 + shortcuts + 16 * 12 + 6 and len(unet.attentions()) == 2 * 16
    names, owned = unet.units(), [layer.name for layer in unet.layers()]
    assert len(names) == 4 + 22 + 16 * 3 + 6
    assert all(sum(f"{name}.".startswith(f"{unit}.") for unit in names) == 1 for name in owned)
    found_splits = unet.skip_splits()
    assert len(found_splits) == 12
    assert all(unet.model.get_submodule(name).in_channels == sum(each) for name, each in found_splits.items())


def test_the_adapters_are_of_their_families() -> None:
    assert isinstance(make("tiny"), CondUNetAdapter) and isinstance(adapter("latent"), UNetAdapter)
    assert CondUNetAdapter(network("cond_unet"), tokens=77).blank_cond(2)["encoder_hidden_states"].shape == (2, 77, 12)  # type: ignore[index]
