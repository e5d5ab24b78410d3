"""TDAC's equations against loops over single numbers, and its choice on toys and on a network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmq_cli.calib import Tdac, collect
from dmq_cli.calib.features import mid_attention, mid_features
from dmq_cli.calib.tdac import counts, density, distances, min_max, variety
from dmq_cli.errors import ConfigError
from dmq_cli.models import ModelDenoiser
from dmq_cli.sampling import Sampler, walk
from dmq_cli.wrap import QuantDenoiser
from tests.calib.walks import Watched, inputs, read, toy
from tests.tiny import SCHEDULE, SHAPE, adapter, one_sentence, scheduler, wrapped

STEPS = 7


def made(seed: int, batch: int = 3) -> Tensor:
    """Features (S, B, C, H, W) float32, some steps near each other."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(3, batch, 4, 2, 2, generator=generator)
    return base[torch.arange(STEPS) % 3] + 0.1 * torch.randn(STEPS, batch, 4, 2, 2, generator=generator)


def loop_distance(one: Tensor, two: Tensor) -> float:
    values = [(a - b) ** 2 for a, b in zip(one.flatten().tolist(), two.flatten().tolist(), strict=True)]
    return math.fsum(values) / len(values)


def loop_angle(one: Tensor, two: Tensor) -> float:
    """1 - cosine along the channels, mean over samples and positions. one, two: (B, C, H, W)."""
    angles = []
    for b in range(one.shape[0]):
        for y in range(one.shape[2]):
            for x in range(one.shape[3]):
                u, v = one[b, :, y, x].tolist(), two[b, :, y, x].tolist()
                product = math.fsum(p * q for p, q in zip(u, v, strict=True))
                angles.append(1 - product / math.hypot(*u) / math.hypot(*v))
    return math.fsum(angles) / len(angles)


def loop_scaled(values: list[float]) -> list[float]:
    return [(value - min(values)) / (max(values) - min(values)) for value in values]


def test_density_and_variety_are_the_brute_force_loops() -> None:
    densities: set[int] = set()
    pairs = 0
    for seed in range(5):
        features = made(seed)
        apart, various = distances(features), variety(features)
        assert apart.dtype == various.dtype == torch.float64
        for radius in (0.0, 0.02, 1.5, 2.5, 100.0):
            dense = density(apart, radius)
            for t in range(STEPS):
                near = [j for j in range(STEPS) if j != t and loop_distance(features[t], features[j]) <= radius]
                assert dense[t] == len(near)
                densities.add(len(near))
        for t in range(STEPS):
            others = [loop_angle(features[t], features[j]) for j in range(STEPS) if j != t]
            assert various[t].item() == pytest.approx(math.fsum(others), rel=1e-12)
            pairs += len(others)
    assert pairs == 5 * STEPS * (STEPS - 1) and densities >= {0, 1, 2, STEPS - 1}


def test_the_radius_is_inclusive_and_a_step_is_not_its_own_neighbour() -> None:
    features = torch.tensor([0.0, 2.0, 2.0]).reshape(3, 1, 1)
    assert density(distances(features), 4.0).tolist() == [2, 2, 2]
    assert density(distances(features), 3.9).tolist() == [0, 1, 1]
    assert density(distances(features), 0.0).tolist() == [0, 1, 1]


@pytest.mark.parametrize("radius", [0.02, 2.0])
def test_weights_are_the_normalised_sum_however_the_trajectories_come(radius: float) -> None:
    features, strategy = made(11, batch=8), Tdac("0-1", radius, variety_weight=0.7)
    mean = [[loop_distance(a, b) for b in features] for a in features]
    dense = [float(sum(mean[t][j] <= radius for j in range(STEPS) if j != t)) for t in range(STEPS)]
    various = [sum(loop_angle(features[t], features[j]) for j in range(STEPS) if j != t) for t in range(STEPS)]
    spread = loop_scaled(dense) if len(set(dense)) > 1 else [0.0] * STEPS
    expected = [d + 0.7 * v for d, v in zip(spread, loop_scaled(various), strict=True)]
    for sizes in ([8], [1] * 8, [3, 3, 2], [5, 3]):
        weights = strategy.weights(torch.split(features, sizes, dim=1))
        assert weights.tolist() == pytest.approx(expected, rel=1e-9)


def test_equal_values_normalise_to_zero() -> None:
    assert min_max(torch.tensor([2.0, 5.0, 3.5])).tolist() == [0, 1, 0.5]
    assert min_max(torch.full((4,), 7.0, dtype=torch.float64)).tolist() == [0, 0, 0, 0]
    same = made(0)[:1].expand(STEPS, -1, -1, -1, -1)
    assert Tdac("0-1").weights([same]).tolist() == [0] * STEPS, "all densities and all varieties equal"
    far = Tdac("0-1", radius=0.0).weights([made(0)])
    assert far.max() == pytest.approx(1.2) and far.min() == 0, "all densities equal: variety alone"
    ray = torch.tensor([1.0, 1.1, 9.0]).reshape(3, 1, 1, 1) * torch.ones(1, 2, 4, 3)
    assert Tdac("0-1").weights([ray]).tolist() == [1, 1, 0], "all varieties equal: density alone"


def test_rounding_is_no_variety() -> None:
    """Multiples of one tensor point the same way; what the arithmetic leaves of 0 must not be stretched to 0..1."""
    factors = torch.arange(1.0, 10.0).reshape(9, 1, 1, 1, 1)
    features = factors * torch.randn(1, 5, 6, 3, 3, generator=torch.Generator().manual_seed(2))
    various = variety(features)
    assert 0 < (various.max() - various.min()) < 1e-12, "or this shows nothing"
    assert Tdac("0-1", radius=0.0).weights([features]).tolist() == [0] * 9


def test_a_step_without_any_signal_is_not_its_own_variety() -> None:
    features = torch.zeros(3, 1, 2, 1, 1)
    features[1:, 0, 0] = 1
    assert variety(features).tolist() == [2, 1, 1], "a zero vector's cosine counts as 0"


def loop_counts(weights: list[float], num: int) -> list[int]:
    """One by one."""
    top = max(weights)
    relative = [w / top for w in weights] if top > 0 else [1.0] * len(weights)
    numbers = [round(num * w / math.fsum(relative)) for w in relative]
    for t in sorted(range(len(numbers)), key=lambda t: (-numbers[t], t)):
        if sum(numbers) < num:
            numbers[t] += 1
    for t in reversed(range(len(numbers))):
        if sum(numbers) > num and numbers[t] > 0:
            numbers[t] -= 1
    return numbers


@pytest.mark.parametrize(
    ("weights", "num", "expected"),
    [
        ([1, 1, 1, 1], 10, [3, 3, 2, 2]),  # 2.5 each, rounded to 2
        ([1, 1, 1, 1], 14, [4, 4, 3, 3]),  # 3.5 each, rounded to 4
        ([1, 1, 0], 7, [4, 3, 0]),  # the last that has any
        ([1, 1, 1, 1], 2, [1, 1, 0, 0]),
        ([0, 0], 5, [3, 2]),
        ([0, 3, 1], 1024, [0, 768, 256]),
        ([5], 9, [9]),
    ],
)
def test_counts_of_examples(weights: list[float], num: int, expected: list[int]) -> None:
    numbers = counts(torch.tensor(weights, dtype=torch.float64), num)
    assert numbers.dtype == torch.int64 and numbers.tolist() == expected == loop_counts(weights, num)


@given(
    st.lists(st.floats(0, 1.7e308, allow_subnormal=True), min_size=1, max_size=40),
    st.integers(min_value=1, max_value=2000),
)
@example([0.0] * 30, 7)
@example([0.0] * 7, 1024)
@example([5e-324] * 3, 2)
@example([1.7e308] * 9, 5)
@example([0.0, 1e300, 5e-324], 3)
@settings(max_examples=400, deadline=None)
def test_counts_add_up_and_follow_the_weights(weights: list[float], num: int) -> None:
    numbers = counts(torch.tensor(weights, dtype=torch.float64), num).tolist()
    assert len(numbers) == len(weights) and sum(numbers) == num and min(numbers) >= 0
    top = max(weights)
    relative = [w / top for w in weights] if top > 0 else [1.0] * len(weights)
    shares = [num * w / math.fsum(relative) for w in relative]
    assert all(abs(n - share) <= 1.5 + 1e-6 for n, share in zip(numbers, shares, strict=True))
    if all(abs(share % 1 - 0.5) > 1e-6 for share in shares):  # sums of floats differ in the last digit
        assert numbers == loop_counts(weights, num)


def test_a_permutation_gives_each_trajectory_one_step() -> None:
    features, plan = made(4), scheduler(STEPS)
    requests: list[int] = []

    def given_features(num: int) -> Iterator[Tensor]:
        requests.append(num)
        yield features

    strategy = Tdac("0-99", radius=0.02, feature_samples=5)
    calls = strategy.choose(plan, given_features)
    assert requests == [5] and len(calls) == strategy.size(STEPS) == 100 and all(len(steps) == 1 for steps in calls)
    flat = [call for (call,) in calls]
    expected = counts(strategy.weights([features]), 100).tolist()
    assert [Counter(flat)[t] for t in range(STEPS)] == expected and len(set(expected)) > 2
    assert flat != sorted(flat), "permuted"
    assert calls == strategy.choose(plan, given_features)
    others = Tdac("0-99", radius=0.02, feature_samples=5, draw_seed=1).choose(plan, given_features)
    assert calls != others and sorted(calls) == sorted(others)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_rows_are_their_trajectories_at_the_chosen_steps(tmp_path: Path, eta: float) -> None:
    strategy, plan, watched = Tdac("20-49", radius=0.05, feature_samples=12), scheduler(10, spacing="quad"), Watched()
    collect(strategy, watched, plan, SHAPE, tmp_path, eta=eta, batch_size=7, adapter=watched.adapter)
    assert watched.evaluations == strategy.evaluations(10) == (30 + 12) * 10
    sample, timestep = read(tmp_path)
    every, grid = inputs(plan, range(20, 50), eta), plan.timesteps.tolist()
    for row, at in enumerate(timestep.tolist()):
        assert torch.equal(sample[row], every[row, grid.index(at)])
    read_by_mid = torch.stack([every[:12, k] * (1 + at / 1000) for k, at in enumerate(grid)])
    expected = counts(strategy.weights([read_by_mid]), 30).tolist()
    assert [Counter(timestep.tolist())[at] for at in grid] == expected and len(set(expected)) > 2


def test_features_are_what_the_mid_attention_reads() -> None:
    """Its input is what the residual block before it put out; here from a walk of all trajectories at once."""
    full, plan, outputs = adapter(torch.float32), scheduler(3), []
    pieces = list(mid_features(full, ModelDenoiser(full), plan, range(11), SHAPE, 0.0))
    assert [piece.shape[:2] for piece in pieces] == [(3, 8), (3, 3)]
    hook = full.model.mid_block.resnets[0].register_forward_hook(lambda _m, _x, out: outputs.append(out.detach()))
    for _ in walk(ModelDenoiser(full), plan, range(11), SHAPE):
        pass
    hook.remove()
    assert torch.allclose(torch.cat(pieces, dim=1), torch.stack(outputs), rtol=1e-3, atol=1e-4)
    assert not mid_attention(full)._forward_pre_hooks


def test_features_of_a_quantized_network_are_its_own() -> None:
    attached, plan, network = wrapped(dtype=torch.float32), scheduler(3), adapter(torch.float32)
    (full,) = mid_features(network, ModelDenoiser(network), plan, range(2), SHAPE, 0.0)
    (low,) = mid_features(attached.adapter, QuantDenoiser(attached), plan, range(2), SHAPE, 0.0)
    assert low.shape == full.shape and low.isfinite().all() and not torch.equal(low, full)


def test_a_failure_leaves_no_hook_and_no_file(tmp_path: Path) -> None:
    watched = Watched()

    def broken(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(Tdac("0-9"), broken, scheduler(4), SHAPE, tmp_path, adapter=watched.adapter)
    assert not mid_attention(watched.adapter)._forward_pre_hooks and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"radius": -1.0}, r"calib\.radius=-1"),
        ({"radius": float("nan")}, r"calib\.radius=nan"),
        ({"variety_weight": float("inf")}, r"calib\.variety_weight=inf"),
        ({"feature_samples": 0}, r"calib\.feature_samples=0"),
        ({"draw_seed": -1}, r"calib\.draw_seed=-1"),
    ],
)
def test_refusals(changes: dict[str, float], named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        collect(Tdac("0-1", **changes), toy, scheduler(4), SHAPE, tmp_path)  # type: ignore[arg-type]
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (lambda: None, r"give collect its adapter"),
        (lambda: adapter(torch.float32, add_attention=False), r"found: down, up.*use calib=uniform"),
        (lambda: Watched("up").adapter, r"found: up"),
    ],
)
def test_a_network_without_attention_in_its_mid_block(
    network: Callable[[], object], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        collect(Tdac("0-1"), toy, scheduler(4), SHAPE, tmp_path, adapter=network())  # type: ignore[arg-type]
    one_sentence(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_one_step_gets_everything() -> None:
    plan = Sampler(1).scheduler(SCHEDULE)
    assert Tdac("0-4").choose(plan, lambda num: iter([made(0)[:1]])) == [[0]] * 5
