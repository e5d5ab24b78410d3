"""Split the words after a verb into Hydra's flags, wherever they stand, and overrides, with paths quoted as Hydra needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmq_cli.errors import ConfigError, nearest

_WITH_VALUE = {
    "--cfg": "-c", "--package": "-p", "--config-path": "-cp", "--config-name": "-cn", "--config-dir": "-cd",
    "--experimental-rerun": "--experimental-rerun",
}  # fmt: skip
_ALONE = {
    "--help": "-h", "--hydra-help": "--hydra-help", "--resolve": "--resolve", "--run": "-r", "--multirun": "-m",
}  # fmt: skip
_MAY_HAVE_VALUE = {"--info": "-i"}
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_CONFIG_DIR = ("--config-dir", _WITH_VALUE["--config-dir"])
_LONG = {short: long for flags in (_WITH_VALUE, _ALONE, _MAY_HAVE_VALUE) for long, short in flags.items()}

_PATH = re.compile(
    r"\+{0,2}(runtime\.outputs|model\.path|cond\.prompts|data\.path|layer_bits|logger\.folder|protocol\.\w+_path)"
)
_PLAIN = re.compile(r"[A-Za-z0-9_./\-]+")  # Hydra reads it as it stands
_NO_TEXT = re.compile(r"[+-]?[\d_]*\.?[\d_]*(e[+-]?\d+)?|[+-]?inf|nan|true|false|null", re.IGNORECASE)
_INTERPOLATION = r"\$\{(\.*\w+\.[\w.]+|[\w.]+:[^}]*)\}"  # of a key in a section, or of a resolver
_SWEPT = re.compile(r"(choice|glob|range|interval|sort|shuffle|tag|str|int|float|bool)\(")
_OF_METHODS = ("calib", "transform", "scheme", "recon", "correct", "sampler")  # groups that a method chooses
_KEPT = ("", "null", "???")  # words of Hydra's own


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into Hydra's flags, each with its value, and overrides, both in order. Raises ConfigError for an unknown flag."""
    flags: list[str] = []
    overrides: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("-") or word == "-":
            overrides.append(word)
            continue
        name, _, value = word.partition("=")
        long = _LONG.get(name, name)
        flags.append(long + word[len(name) :])
        if long in _WITH_VALUE and not value:
            flags.append(_value(name, remaining))
        elif long in _MAY_HAVE_VALUE and remaining and remaining[0] in _INFO:
            flags.append(remaining.pop(0))
        elif long not in (*_WITH_VALUE, *_ALONE, *_MAY_HAVE_VALUE):
            flag_names = [*_WITH_VALUE, *_ALONE, *_MAY_HAVE_VALUE, "--json", "--quiet", "--verbose", "--version"]
            raise ConfigError(f"There is no flag {name}.{nearest(name, flag_names)}")
    return flags, overrides


def own_folder(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take the (last) value of --config-dir out of a command's words, and return it with the other words.

    A flag without a value stays in; `split` refuses it.
    """
    folder: str | None = None
    other_words: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        name, equals, value = word.partition("=")
        if name not in _CONFIG_DIR or not (equals or remaining):
            other_words.append(word)
        else:
            folder = value if equals else remaining.pop(0)
    return folder, other_words


def _value(flag: str, remaining: list[str]) -> str:
    if not remaining:
        raise ConfigError(f"The flag {flag} needs a value after it; see dmq evaluate --hydra-help.")
    return remaining.pop(0)


def sweeps(flags: Sequence[str], overrides: Sequence[str]) -> bool:
    """Whether commas separate jobs: with -m, and for a table, which is a sweep."""
    table = [word.partition("=")[2] for word in overrides if word.startswith("table=")]
    mode = any(word.lower() in ("hydra.mode=multirun", "+hydra.mode=multirun") for word in overrides)
    return "--multirun" in flags or mode or table[-1:] not in ([], ["none"])


def as_hydra(overrides: Sequence[str], swept: bool = False) -> list[str]:
    """Quote paths in overrides so that Hydra reads them, whatever their characters; those that are quoted already stay.

    `model=/a/folder` becomes the choice model=folder with its path and name. swept: a comma separates jobs, and `\\,` or
    quotes keep one in a path; several folders of `model=/a,/b` stay together for the sweep, which calls this for each job. A key that the
    choices of a sweep have and the default one has not, as recon.settings.lr=1e-4 with method=lsq,pact, becomes one value to sweep over:
    Hydra then looks for it in the jobs alone.
    """
    words = [hydra_word for word in overrides for hydra_word in _word(word, swept)]
    groups = _varied(overrides) if swept else set()
    return [_of_jobs(word, groups) for word in words]


def _varied(overrides: Sequence[str]) -> set[str]:
    """The groups whose choice differs between the jobs of a sweep."""
    groups: set[str] = set()
    for word in overrides:
        key, _, value = word.partition("=")
        if key == "table" or (key == "method" and "," in value):
            groups.update(_OF_METHODS)
        elif "," in value:
            groups.add(key)
    return groups


def _of_jobs(word: str, groups: set[str]) -> str:
    key, _, value = word.partition("=")
    group, dot, _ = key.partition(".")
    is_one = value and "," not in value and not _SWEPT.match(value)
    return f"{key}=choice({value})" if dot and group in groups and is_one else word


def _word(word: str, swept: bool) -> Iterator[str]:
    key, equals, value = word.partition("=")
    is_model = key == "model" and _has_folder(value)
    if not equals or not (is_model or _PATH.fullmatch(key)) or (swept and _SWEPT.match(value)):
        yield word
        return
    items = _items(value) if swept else [value]
    if not is_model:
        yield f"{key}={','.join(map(_path, items))}"
    elif len(items) == 1:
        yield from _folder(items[0])
    else:
        yield f"model={','.join(_path(item) if _has_folder(item) else item for item in items)}"


def _has_folder(value: str) -> bool:
    return "/" in value or any(item in (".", "..", "~") for item in value.split(","))


def _folder(value: str) -> list[str]:
    """The overrides that `model=/a/folder` stands for."""
    path = Path(_text(value)).expanduser().absolute()
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.name) or "folder"
    return ["model=folder", f"model.path={quoted(str(path))}", f"model.name={quoted(name)}"]


def _path(value: str) -> str:
    """Quote one path for Hydra."""
    if value in _KEPT or _is_quoted(value):
        return value
    text = _text(value)
    home = str(Path(text).expanduser()) if text.startswith("~") else text
    return home if _PLAIN.fullmatch(home) and not _NO_TEXT.fullmatch(home) else quoted(home)


def _text(value: str) -> str:
    """Remove Hydra's quotes from a word, if it has them."""
    if _is_quoted(value):
        return value[1:-1].replace(f"\\{value[0]}", value[0])
    return value.replace("\\,", ",")


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]


def quoted(text: str) -> str:
    """Quote text so that Hydra reads it literally, except interpolations like ${runtime.outputs}.

    Hydra takes half of the backslashes before a quote and at the end for itself, and OmegaConf those before ${.
    """
    literal = re.sub(rf"(\\*)(?!{_INTERPOLATION})\$\{{", r"\1\1\\${", text)
    inside = re.sub(r"(\\*)'", r"\1\1\\'", literal)
    return "'" + re.sub(r"(\\+)$", r"\1\1", inside) + "'"


def _items(value: str) -> list[str]:
    """Split a list of choices at its commas, except those in quotes and after a backslash."""
    items, quote, escaped = [""], "", False
    for letter in value:
        if letter == "," and not quote and not escaped:
            items.append("")
            continue
        if letter in "'\"" and not escaped and (letter == quote or not items[-1]):
            quote = "" if quote else letter
        escaped = letter == "\\" and not escaped
        items[-1] += letter
    return items
