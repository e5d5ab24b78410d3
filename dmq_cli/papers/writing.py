"""Write a table's view as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from dmq_cli.papers.views import TablePart, View

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
    "±": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$", "λ": r"$\lambda$", "≈": r"$\approx$", "†": r"$\dagger$", "\N{EN DASH}": "--",
}  # fmt: skip


def counts(view: View) -> str:
    """Count the rows in each state, as in "3 measured, 1 not run"."""
    order = ("measured", "not run", "needs weights", "needs GPU", "not available")
    return ", ".join(f"{view.states[state]} {state}" for state in order if view.states[state])


def marked(view: View) -> str:
    """The title, marked where the rows were run on the embedded models."""
    return view.title + (" (digits scale: embedded models, not the paper's)" if view.scale == "digits" else "")


def markdown(view: View) -> str:
    """Title, every part as a table, claims, reasons and notes."""
    blocks = [f"# {marked(view)}", f"{view.source}. Rows: {counts(view)}."]
    for part in view.parts:
        under = [f"Measured under the protocol {part.protocol}."] if part.protocol else []
        blocks += [f"**{_cell(part.title)}**", _grid(part), *under]
    for lines in ([claim.line() for claim in view.claims], view.reasons, view.notes):
        blocks += ["\n".join(f"* {line}" for line in lines)] if lines else []
    return "\n\n".join(blocks) + "\n"


def as_csv(view: View) -> str:
    """One line for each row and column: part, method, bits, column, value, state, protocol. Parts have different columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["part", "method", "bits", "column", "value", "state", "protocol"])
    for part in view.parts:
        for method, bits, *values, state in part.rows:
            for head, value in zip(part.heads[2:-1] or [""], values or [""], strict=True):
                writer.writerow([part.title, method, bits, head, value, state, part.protocol.replace("`", "")])
    return out.getvalue()


def latex(view: View) -> str:
    """A table environment that needs no package, to be read by \\input; claims and notes are comments below it."""
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{tex(marked(view))}}}", rf"\label{{tab:{view.name}}}"]
    for part in view.parts:
        lines += [
            rf"\par\medskip {tex(part.title)}\par",
            rf"\begin{{tabular}}{{ll{'r' * (len(part.heads) - 3)}l}}",
            r"\hline",
        ]
        body = [_tex_row(part.heads) + r" \hline", *map(_tex_row, part.rows)]
        lines += [*body, r"\hline", r"\end{tabular}"]
    comments = [
        f"% {line}" for line in (view.source, *(claim.line() for claim in view.claims), *view.reasons, *view.notes)
    ]
    return "\n".join([*lines, r"\end{table}", *comments]) + "\n"


def tex(text: str) -> str:
    """Escape text for LaTeX; arrows and signs become mathematics."""
    return "".join(_LATEX.get(character, character) for character in text)


def _tex_row(values: Iterable[str]) -> str:
    return " & ".join(map(tex, values)) + r" \\"


def _grid(part: TablePart) -> str:
    rows = [part.heads, ["---"] * len(part.heads), *part.rows]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")
