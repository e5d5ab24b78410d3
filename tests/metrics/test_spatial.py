"""sFID's features are what ADM's evaluator reads: mixed_6/conv:0 of TensorFlow's Inception, its first seven channels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import dmq_cli.metrics.extractors as module
import dmq_cli.metrics.weights as weights
from dmq_cli.metrics import Protocol, extract, reference_features
from tests.metrics.helpers import digits, inception_state, measured, protocol

NAMES = ("2048", "logits_unbiased", "spatial")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protocol]:
    """A protocol with random weights in the place of the published ones."""
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(inception_state(), file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "INCEPTION_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
        yield protocol(
            extractor="inception-v3-compat", extractor_path=str(file), columns={}, metrics=("fd", "is", "sfid")
        )
    module._build.cache_clear()


@pytest.fixture(scope="module")
def extractor(plan: Protocol) -> Any:
    return module.load_extractor(plan)


def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_it_is_the_product_of_the_blocks_input_and_seven_rows_of_the_weight(extractor: Any) -> None:
    block, inputs = extractor.network.Mixed_6d, []
    hook = block.register_forward_pre_hook(lambda module, given: inputs.append(given[0].double()))
    outputs = dict(zip(NAMES, extractor(images()), strict=True))
    hook.remove()
    kernel = block.branch1x1.conv.weight.double()
    assert kernel.shape == (192, 768, 1, 1) and inputs[0].shape == (2, 768, 17, 17)
    by_hand = torch.einsum("nchw,oc->nhwo", inputs[0], kernel[:7, :, 0, 0])  # channels last, as in TensorFlow
    assert outputs["spatial"].shape == (2, 2023) and 17 * 17 * 7 == 2023
    torch.testing.assert_close(outputs["spatial"].double(), by_hand.flatten(1), rtol=1e-4, atol=1e-4)


def test_it_is_before_batch_norm_and_relu(extractor: Any) -> None:
    spatial = extractor(images())[2].view(2, 17, 17, 7)
    norm = extractor.network.Mixed_6d.branch1x1.bn
    after = norm(torch.cat([spatial.permute(0, 3, 1, 2), torch.zeros(2, 185, 17, 17)], 1))[:, :7].relu()
    assert float(spatial.min()) < 0, "nothing is cut off"
    assert not torch.allclose(spatial.permute(0, 3, 1, 2), after, atol=1e-3)


def test_a_protocol_that_asks_for_sfid_gets_it_beside_the_others(extractor: Any, plan: Protocol) -> None:
    extracted = extract(digits(0, 2), plan)
    features, logits, spatial = extractor(torch.from_numpy(digits(0, 2)).permute(0, 3, 1, 2))
    assert set(extracted) == {"features", "logits", "spatial"}
    for name, wanted in (("features", features), ("logits", logits), ("spatial", spatial)):
        torch.testing.assert_close(extracted[name], wanted)


def test_a_reference_remembered_without_them_is_extracted_again(plan: Protocol) -> None:
    without = reference_features(digits(0, 2), replace(plan, metrics={"fd": plan.metrics["fd"]}))
    assert set(without) == {"features", "logits"}
    assert set(reference_features(digits(0, 2), plan)) == {"features", "logits", "spatial"}


def test_sfid_is_the_frechet_distance_of_these_features_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    ours, theirs, other = (torch.randn(60, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    plan = protocol(extractor="inception-v3-compat", num_images=60, metrics=("fd", "sfid"))
    numbers = measured({"features": other, "spatial": 2 * ours}, {"features": other, "spatial": theirs}, plan).numbers
    plain = measured({"features": 2 * ours, "spatial": other}, {"features": theirs, "spatial": other}, plan).numbers
    assert numbers["sfid"] == plain["fd"] > 1 and numbers["fd"] == pytest.approx(0, abs=1e-9)
