"""Which values of parametrized tests that take long are run by default: one or two of each kind; the others are slow tests.

Each of these tests does the same work for every value, and what is special about a value has a quick test of its own.
"""

from __future__ import annotations

import pytest

REPRESENTATIVES: dict[str, tuple[str, ...]] = {
    "quant/test_product.py::test_compiled_is_eager": (
        "uniform-tensor-soft", "uniform-channel-nearest", "uniform-intervals-nearest", "uniform-dynamic-nearest", "uniform-tensor-sign",
        "symmetric-learned-fixed", "from_zero-steps-nearest", "from_zero-learned_steps-nearest", "log2-learned-nearest",
    ),
    "test_families.py::test_methods_run_in_turn": ("transformer",),
    "stages/test_off.py::test_a_reconstruction_without_iterations_is_none": ("brecq", "scales"),
    "stages/test_samplers.py::test_a_corrected_run": ("plms-method=tfmq",),
    "stages/test_targets.py::test_what_is_learned_does_not_depend_on_them": ("brecq-26",),
    "stages/test_paired.py::test_samples_that_are_no_images": ("vector",),
    "qat/test_training.py::test_a_killed_training_ends_in_the_same_bytes": ("tdq", "double_update", "nipq"),
    "qat/test_training.py::test_every_kind_learns_and_what_is_stored_is_what_was_learned": ("tdq", "pact", "double_update"),
    "zoo/test_latent.py::test_a_stopped_run_goes_on_to_the_same_weights": ("dit_digits",),
    "zoo/test_autoencoder.py::test_a_stopped_run_goes_on_to_the_same_weights": ("vq-vqvae",),
    "sampling/test_follow.py::test_whole_images_are_those_of_diffusers_loop": ("ddim", "plms", "dpmpp_2m"),
    "calib/test_fit.py::test_the_batch_size_does_not_matter": ("rules0", "rules1", "rules2"),
    "wrap/test_families.py::test_every_unit_can_be_captured_and_run_again": (
        "blocks-dit", "layers-latent", "layers-cond_unet", "layers-dit",
    ),
    "test_own_code.py::test_the_folder_may_be_named_anywhere": ("last",),
    "test_kept.py::test_what_is_kept_is_what_is_made_anew": ("wrong",),
    "deploy/test_lower.py::test_every_layer_is_in_integers_and_nothing_changes": (
        "static-5", "eight bits-64", "symmetric-127", "per step-64", "intervals-127", "network of the timestep-64",
    ),
    "deploy/test_packed.py::test_the_network_comes_back": (
        "two bits-dtype0", "per step-dtype0", "network of the timestep-dtype0", "both ends-dtype0", "chosen by step-dtype0",
        "symmetric-dtype1", "by input channel-dtype0", "partly full precision-dtype0", "dynamic-dtype0",
    ),
    "stages/test_export.py::test_a_damaged_folder_is_refused_before_anything_runs": ("weights_altered", "index_edited"),
}  # fmt: skip


def mark(items: list[pytest.Item]) -> None:
    """Mark the other values of these tests as slow. Raises pytest.UsageError for a representative that is not there any more."""
    collected: dict[str, set[str]] = {}
    for item in items:
        test, _, value = item.nodeid.partition("[")
        name = test.removeprefix("tests/")
        if name in REPRESENTATIVES:
            collected.setdefault(name, set()).add(value.removesuffix("]"))
            if value.removesuffix("]") not in REPRESENTATIVES[name]:
                item.add_marker(pytest.mark.slow)
    lost = [
        f"{name}[{value}]"
        for name, values in collected.items()
        for value in REPRESENTATIVES[name]
        if value not in values
    ]
    chosen_by_hand = any(len(values) == 1 for values in collected.values())  # pytest FILE::TEST[VALUE]
    if lost and not chosen_by_hand:
        raise pytest.UsageError(f"tests/representatives.py names {', '.join(lost)}, which is no test.")
