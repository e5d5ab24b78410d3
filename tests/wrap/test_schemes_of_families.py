"""Every scheme and policy of conf fits every family of networks."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from dmq_cli.models import Adapter, sites
from dmq_cli.paths import conf_folder
from dmq_cli.stages.build import make
from dmq_cli.wrap import QuantDenoiser, attach, quantizing
from tests import families, tiny
from tests.test_conf import composed

SITES = {"pixel": 118, "latent": 196, "cond_unet": 198, "dit": 50}
SCHEMES = sorted(path.stem for path in (conf_folder() / "scheme").glob("*.yaml"))
POLICIES = sorted(path.stem for path in (conf_folder() / "policy").glob("*.yaml"))


def made(family: str) -> Adapter:
    return tiny.adapter() if family == "pixel" else families.adapter(family)


def test_there_are_schemes_and_policies() -> None:
    assert len(SCHEMES) == 21 and len(POLICIES) == 9


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", SITES)
def test_a_scheme_attaches_to_a_family(scheme: str, family: str) -> None:
    config = composed(f"scheme={scheme}", "bits=w4a8")
    attached = attach(made(family), make(config["scheme"]) + make(config["policy"]), tiny.TIMESTEPS)
    attached.model.double()
    assert len(attached.specs) == SITES[family] and all(spec.bits in (4, 8) for spec in attached.specs.values())
    zero = {
        s.label: getattr(s_.grid(bits=8), "from_zero", False) for s, s_ in attached.specs.items() if s.slot == "prob"
    }
    assert zero and all(zero.values()), "probabilities of every attention"
    cond = families.cond(family)
    with quantizing(attached, weights=False, activations=False):
        estimate = QuantDenoiser(attached)(*tiny.data(), cond)
    assert estimate.shape == (8, *tiny.SHAPE) and bool(torch.isfinite(estimate).all())


@pytest.mark.slow
def test_every_policy_resolves_on_every_family_under_every_scheme() -> None:
    family_sites = {family: sites(made(family)) for family in SITES}
    configs = {name: make(composed(f"scheme={name}", "bits=w4a8")["scheme"]) for name in SCHEMES}
    rules = {name: make(composed(f"policy={name}", "bits=w4a8")["policy"]) for name in POLICIES}
    resolved = 0
    for family, scheme, policy in product(family_sites, configs, rules):
        specs = (configs[scheme] + rules[policy]).resolve(family_sites[family])
        resolved += len(specs) == SITES[family]
        if policy in ("tfmq", "ptqd", "tdq"):  # attention products in full precision
            products = [spec for site, spec in specs.items() if site.slot in ("q", "k", "v", "prob")]
            assert products and not any(spec.quantized for spec in products)
    assert resolved == len(SITES) * len(SCHEMES) * len(POLICIES) == 756
