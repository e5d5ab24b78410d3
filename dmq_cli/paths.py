"""Where the package's own files lie, in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

from dmq_cli.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent


def conf_folder() -> Path:
    """The folder of YAML files: inside the package in a wheel, beside it in a checkout."""
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(
        f"The configuration folder conf/ was looked for in {PACKAGE} and beside it and is in neither; install dmq again."
    )


def resolve(path: str) -> Path:
    """A path as given, absolute, or `package:` and a path inside the package."""
    if path.startswith("package:"):
        return PACKAGE / path.removeprefix("package:")
    return Path(path).expanduser().absolute()
