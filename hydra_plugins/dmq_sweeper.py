"""Hydra's door to dmq_cli.sweep: it only instantiates sweepers that lie in the namespace hydra_plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper


class DmqSweeper(Sweeper):  # type: ignore[misc]
    """See dmq_cli.sweep.sweeper.sweep. params: what conf/table sweeps over, key to comma-separated values."""

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})
        self.context: Any = None
        self.config: Any = None

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keep what Hydra hands over; the function that a job runs is that of the current command."""
        self.context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that are not finished; what came of all of them is with the current command."""
        from dmq_cli.sweep.sweeper import sweep

        sweep(self.context, self.config, self.params, arguments)
