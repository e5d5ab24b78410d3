"""Settings that say how a command runs and not what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import ConfigError


def check_choices(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value of `retry` or `scale` that does not exist."""
    for key, known in (("retry", (None, "failed")), ("scale", ("paper", "digits"))):
        if (value := config.get(key, known[0])) not in known:
            names = " or ".join("null" if one is None else one for one in known)
            raise ConfigError(f"{key}={value} is not known; use {names}.")
