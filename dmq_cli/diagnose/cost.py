"""Count the cost of one network call and the size of the quantized network, from shapes and bits.

Counted are products: every convolution and linear layer, and both products of attention, q k^T and prob v. Biases, norms,
activation functions and the softmax are not, as in torch.utils.flop_counter, whose count is twice this one. Quantization is
simulated here, so these are the costs of hardware that computes with such bits, not of this machine.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dmq_cli.models import Site
from dmq_cli.quant import StepMLP
from dmq_cli.wrap import FULL_PRECISION, TRAINED, Attached, operands, quantizing

_OPERATIONS = 2  # of a MAC: a multiplication and an addition
_FLOAT = 4  # bytes
_HALF = 2
_BRANCHES = (".branch_down", ".branch_up")  # low-rank branches beside a layer, kept at 16 bits
_FREE = (".rounding.up", ".tuned", "time_grid.timesteps")  # in the codes; the sampler's
_Count = Callable[[str, str, str, int], None]


@dataclass(frozen=True)
class Cost:
    """The cost of one network call on one sample, and the network's size without scales and tables.

    macs: multiply-accumulates. bops: bit operations, 2 x sum of macs x bits x bits of the two factors; bops_fp: the same
    with 32 bits everywhere. weight_bytes: weights of the layers, packed at their bits. other_bytes: all other parameters
    (biases, norms, embeddings) as float32. size_bytes_fp: all parameters as float32. Scales, zero points and tables come
    on top: see stored_bytes.
    """

    macs: int
    bops: int
    bops_fp: int
    weight_bytes: int
    other_bytes: int
    size_bytes_fp: int

    def record(self) -> dict[str, int]:
        """The fields by name, for JSON."""
        return asdict(self)


def network_cost(attached: Attached, macs: Mapping[tuple[Site, Site], int] | None = None) -> Cost:
    """Count the cost of the network at the bits of its scheme; a site in full precision counts 32, one with a choice its widest.

    macs: of product_macs; None: it is called.
    """
    macs = product_macs(attached) if macs is None else macs
    bits = {site: int(spec.bits or FULL_PRECISION) for site, spec in attached.specs.items()}
    weights = {s: attached.model.get_parameter(f"{s.module}.weight").numel() for s in bits if s.slot == "weight"}
    parameters, total = _parameters(attached), sum(macs.values())
    return Cost(
        macs=total,
        bops=sum(_OPERATIONS * number * bits[first] * bits[second] for (first, second), number in macs.items())
        + _OPERATIONS * _branch_macs(attached, macs) * 16**2,
        bops_fp=_OPERATIONS * total * FULL_PRECISION**2,
        weight_bytes=-(-sum(number * bits[site] for site, number in weights.items()) // 8),
        other_bytes=_FLOAT * (parameters - sum(weights.values())),
        size_bytes_fp=_FLOAT * parameters,
    )


def product_macs(attached: Attached) -> dict[tuple[Site, Site], int]:
    """Count the MACs of every product in one network call on one sample, by the sites of its two factors.

    A layer multiplies its sites input and weight; attention q and k, then prob and v. A layer that is called twice counts
    twice, one that is not called is absent.
    """
    at = {(site.module, site.slot): site for site in attached.specs}
    macs_by_sites: Counter[tuple[Site, Site]] = Counter()

    def count(module: str, first_slot: str, second_slot: str, macs: int) -> None:
        macs_by_sites[at[module, first_slot], at[module, second_slot]] += macs

    first = next(attached.model.parameters())
    sample = torch.zeros(1, *attached.adapter.sample_shape(), dtype=first.dtype, device=first.device)
    timestep = torch.zeros(1, dtype=torch.int64, device=first.device)
    with quantizing(attached, weights=False, activations=False), _watched(attached, count), torch.no_grad():
        attached.adapter.predict(sample, timestep, attached.adapter.blank_cond(1))
    return dict(macs_by_sites)


def _branch_macs(attached: Attached, macs: Mapping[tuple[Site, Site], int]) -> int:
    """Count the MACs of a transform's low-rank branches."""
    layers, total = attached.layers(), 0
    for (site, _), number in macs.items():
        layer = layers.get(site.module) if site.slot == "input" else None
        if layer is not None and layer.branch_down is not None:
            rank, out = layer.branch_down.shape[0], layer.weight.shape[0]
            total += number // out * rank + number // layer.weight[0].numel() * rank
    return total


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Count the bytes that the tensors of quantizers.safetensors or of a correction's tables.safetensors add to the network.

    Float32 for each element, whatever it is stored as; 16 bits for low-rank branches; nothing for rounding decisions and
    fine-tuned weights, which the weights' codes hold, for trained parameters, which stand in place of the network's own,
    nor for the timesteps, which are the sampler's. A network of scales
    (TDQ) counts as the table it is replaced by, a scale for each of these timesteps, and a zero point where the lower end
    of the range is kept.
    """
    steps = len(tensors.get("time_grid.timesteps", ()))
    sources = [name.removesuffix(StepMLP.tabulated[0]) for name in tensors if _in_table(name) == StepMLP.tabulated[0]]
    networks = len(sources) + sum(f"{source}low" in tensors for source in sources)
    return networks * steps * _FLOAT + sum(tensor.numel() * _width(name) for name, tensor in tensors.items())


def _width(name: str) -> int:
    if name.startswith(TRAINED) or name.endswith(_FREE) or _in_table(name) is not None:
        return 0
    return _HALF if name.endswith(_BRANCHES) else _FLOAT


def _in_table(name: str) -> str | None:
    """The tensor's name in a network of scales; None for one that stays when the network becomes a table."""
    first = name.rpartition(".scale.")[2].partition(".")[0]
    return first if ".scale." in name and first in StepMLP.tabulated else None


def _parameters(attached: Attached) -> int:
    """Count the elements of all parameters that the network had before quantization."""
    added = tuple(f"{site.name}." for site in attached.specs)
    named = attached.model.named_parameters()
    return sum(parameter.numel() for name, parameter in named if not name.startswith(added))


@contextlib.contextmanager
def _watched(attached: Attached, count: _Count) -> Iterator[None]:
    """Inside, `count` is called for every product of the network, with its module and the slots of its factors."""
    products, hooks = _AttentionProducts(count), []
    for site in attached.specs:
        module = attached.model.get_submodule(site.module)
        if site.slot == "weight":
            hooks.append(module.register_forward_hook(_layer_counter(site.module, count)))
        if site.slot == "prob":
            hooks.append(module.register_forward_pre_hook(products.entering(site.module)))
    try:
        with products:
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _layer_counter(name: str, count: _Count) -> Callable[[nn.Module, Any, Tensor], None]:
    def counted(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        weight = layer.get_parameter("weight")  # (out, in / groups, ...): each output element is one row's product
        count(name, "input", "weight", output.numel() * weight[0].numel())

    return counted


class _AttentionProducts(TorchFunctionMode):
    """Counts the one call that all attentions make with quantizers off, scaled_dot_product_attention."""

    def __init__(self, count: _Count) -> None:
        super().__init__()
        self.count, self.module = count, ""

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        """Make a hook that names the module of the next products."""

        def entered(_module: nn.Module, _inputs: Any) -> None:
            self.module = name

        return entered

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            query, key, value, *_ = operands(*args, **(kwargs or {}))  # (B, heads, tokens, dim)
            self.count(self.module, "q", "k", query.numel() * key.shape[-2])
            self.count(self.module, "prob", "v", query[..., 0].numel() * key.shape[-2] * value.shape[-1])
        return func(*args, **(kwargs or {}))
