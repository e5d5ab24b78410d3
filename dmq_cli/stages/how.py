"""Check the settings that say how a command runs, not what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import ConfigError


def check_choices(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value of `retry` or `scale` that does not exist."""
    for key, values in (("retry", (None, "failed")), ("scale", ("paper", "digits"))):
        if (value := config.get(key, values[0])) not in values:
            names = " or ".join("null" if value_name is None else value_name for value_name in values)
            raise ConfigError(f"{key}={value} is not known; use {names}.")
