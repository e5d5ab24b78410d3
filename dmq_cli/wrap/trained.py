"""Parameters that training changes and no weight quantizer stands before: biases, norms, layers in full precision.

A network in memory is quantized and full-precision at once: where its weight quantizers are off it has to be what it was before training,
these parameters included. So their originals stay beside them, and `wrap.quantizing` exchanges the two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dmq_cli.errors import ArtifactCorruptError

_ORIGINAL = "_untrained"  # after the parameter's name: a buffer, so that it moves with the network to a device or dtype


class Trained:
    """The trained parameters of one network, by name; none until `open`. shown: whether they stand in the network, or their originals."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self.shown = True

    def open(self, model: nn.Module, names: Iterable[str]) -> list[nn.Parameter]:
        """Keep the originals of these parameters of `model`, and return the parameters themselves, in order."""
        for name in names:
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            self._places[name] = module, leaf
            module.register_buffer(leaf + _ORIGINAL, module.get_parameter(leaf).detach().clone(), persistent=False)
        return [module.get_parameter(leaf) for module, leaf in self._places.values()]

    @torch.no_grad()
    def load(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Put trained values, by name, into a network as it was before. ArtifactCorruptError for one that it does not have so."""
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        wrong = [name for name, value in tensors.items() if shapes.get(name) != value.shape]
        if wrong:
            raise ArtifactCorruptError(
                f"The stored training does not fit this network ({len(wrong)} parameters differ, first: {wrong[0]}); delete the artifact"
                " and run again."
            )
        for parameter, value in zip(self.open(model, tensors), tensors.values(), strict=True):
            parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Copy the trained values, by name, whatever is shown."""
        with self.showing(True):
            return {name: module.get_parameter(leaf).detach().clone() for name, (module, leaf) in self._places.items()}

    @contextlib.contextmanager
    def showing(self, trained: bool) -> Iterator[None]:
        """Inside, the network has the trained parameters, or the original ones."""
        before = self.shown
        self._show(trained)
        try:
            yield
        finally:
            self._show(before)

    def _show(self, trained: bool) -> None:
        if trained == self.shown:
            return
        for module, leaf in self._places.values():
            parameter, kept = module.get_parameter(leaf), module.get_buffer(leaf + _ORIGINAL)
            value = parameter.data
            parameter.data = kept
            setattr(module, leaf + _ORIGINAL, value)
        self.shown = trained
