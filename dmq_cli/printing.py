"""Text from files on its way to a terminal: what a terminal acts on, instead of showing it, is spelled out."""

from __future__ import annotations

import logging
import unicodedata

_KEPT = "\n\t"


def printable(text: str) -> str:
    r"""The text with every control, format and surrogate character but line ends and tabs as an escape, such as \x1b."""
    if text.isascii() and text.translate(_WITHOUT_LINES).isprintable():
        return text
    return "".join(_escaped(character) if _acts(character) else character for character in text)


def one_line(text: str) -> str:
    r"""`printable`, with line ends and tabs spelled out, too: a name cannot make up a line of its own."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class SafeFormatter(logging.Formatter):
    """Formats records as `printable` text."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        return printable(super().format(record))


_WITHOUT_LINES = {ord(character): None for character in _KEPT}


def _acts(character: str) -> bool:
    return character not in _KEPT and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
