"""The documentation is true: the drawing of imports, the table of stages, links, choices, and the example of a method of one's own."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from dmq_cli import choices
from dmq_cli.cli.documents import documents
from dmq_cli.errors import ConfigError
from dmq_cli.paths import PACKAGE
from dmq_cli.report.tables import read_cells, table
from dmq_cli.stages.nodes import NODES
from tests.chain import artifacts, dmq, tiny_folder, words
from tests.test_floors import FILES, FLOORS, UPWARD, imports, own, part
from tests.tiny import SMALL

ROOT = PACKAGE.parent
DOCS = ROOT / "docs"
TABLES = ROOT / "outputs" / "tables"
PAGES = [*documents(ROOT), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
BASE = "base"  # all parts of floor 0: what every other may import
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in a checkout")


def drawing() -> str:
    """One row for each part of dmq_cli, from the top floor down, with an x below every part that it imports."""
    room = {name: BASE if floor == 0 else name for name, floor in FLOORS.items()}
    arrows = {(part(file), own(name)) for file in FILES for name in imports(file)} - set(UPWARD)
    between = {(room[here], room[there]) for here, there in arrows if there is not None}
    rooms = [*sorted((name for name in FLOORS if FLOORS[name]), key=lambda name: (-FLOORS[name], name)), BASE]
    letters = "abcdefghijklmnopqrstuvwxyz"[: len(rooms)]
    lines = [f"floor    {'part':<12}" + " ".join(letters)]
    for letter, here in zip(letters, rooms, strict=True):
        marks = ("\\" if here == there else "x" if (here, there) in between else "." for there in rooms)
        lines.append(f"{FLOORS.get(here, 0):>5}  {letter} {here:<12}" + " ".join(marks))
    return "\n".join(lines)


def blocks(page: Path) -> dict[str, str]:
    """The fenced blocks of a page that have a title, by it."""
    pairs = re.findall(
        r'^```\w+ title="([^"]+)"\n(.*?)^```$', page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return dict(pairs)


def anchors(page: Path) -> set[str]:
    """What a link may name on a page: its headings, as the forge and the site spell them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_drawing_of_the_architecture_is_what_imports_are() -> None:
    (drawn,) = re.findall(
        r"^```text\n(floor .*?)\n^```$", (DOCS / "architecture.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert drawn == drawing(), f"put this into docs/architecture.md:\n{drawing()}"


def test_the_table_of_stages_is_the_graph() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|([^|]*)\| ([^|]*) \|", (DOCS / "architecture.md").read_text("utf-8"), re.MULTILINE
    )
    documented = {name: (set(re.findall(r"\w+", needs)), set(re.findall(r"\w+", reads))) for name, needs, reads in rows}
    most = {"recon": {"_target_": "dmq_cli.qat.Qat", "loss": "noise"}}  # what needs most
    assert documented == {name: (set(node.needs_for(most)), {*node.reads, *node.asks}) for name, node in NODES.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        to = (page.parent / file).resolve() if file else page
        assert to.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(to), (
            f"{page.name} links to {target}; {to.name} has {sorted(anchors(to))}"
        )


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} and len(named) >= 30


def test_pictures_are_those_of_the_tables() -> None:
    pictures = sorted((DOCS / "images").glob("*.png"))
    assert len(pictures) >= 3
    for picture in pictures:
        assert picture.read_bytes() == (TABLES / picture.stem / "samples.png").read_bytes()


def test_help_and_pages_of_reports_name_pages_that_are_there() -> None:
    texts = [dmq(command, "--help").out for command in ("list", "report", "reference", "fetch", "measure")]
    texts.append(dmq("--help").out)
    shown = (
        ROOT / "conf" / "config.yaml",
        PACKAGE / "report" / "templates" / "base.html.j2",
    )  # what the verbs' help shows
    texts += [file.read_text(encoding="utf-8") for file in shown]
    for text in texts:
        named = re.findall(r"docs/[\w/-]+\.md", text)
        assert named and all((ROOT / page).is_file() for page in named), text


def test_choices_on_the_page_of_the_command_line_are_those_of_conf() -> None:
    text = (DOCS / "guides" / "command-line.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    listed = (
        "bits",
        "budget",
        "calib",
        "transform",
        "scheme",
        "policy",
        "recon",
        "correct",
        "sampler",
        "numerics",
        "protocol",
        "subject",
        "logger",
    )
    for group in listed:
        assert set(re.findall(r"\w+", rows[group])) == set(choices.names(group)), group


def test_every_method_has_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "methods").glob("*.md"))
    tabulated = {
        name for names in re.findall(r"<!-- table digits_(?:ptq|qat) method=(\S+)", text) for name in names.split(",")
    }
    assert tabulated == set(choices.names("method"))


def test_the_readme_is_short_and_says_what_the_tool_is_for_first() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) < 8192 and "∞" not in text
    (table,) = re.findall(r"<!-- table .*?-->\n(.*?)\n\n", text, re.DOTALL)
    assert len(table.splitlines()) == 2 + 7, "seven rows below the heading"


def test_the_demo_in_the_readme_is_what_such_cells_are() -> None:
    """What needs no learning is in the committed cells of `main`, too: of the same seeds, whatever the budget."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^3 done, .*?\n(\|.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines())
    printed = table(TABLES / "main", ["w3a8"]).splitlines()[0].strip("|").split(" | ")
    assert set(heads) <= {head.strip() for head in printed}
    assert [row[1] for row in rows] == ["full precision", "minmax", "qdiffusion", "tac"]
    (minmax,) = (cell for cell in read_cells(TABLES / "main") if (cell.method, cell.bits) == ("minmax", "w3a8"))
    for row, numbers in zip(rows, (minmax.fp, {**minmax.quantized, **minmax.paired}), strict=False):
        for key, name in (("fd", "FD-digits ↓"), ("is", "IS-digits ↑"), ("psnr", "PSNR to FP ↑")):
            shown = row[heads.index(name)]
            assert shown == "" if key not in numbers else shown.startswith(f"{numbers[key].seeds[0]:.2f} ["), name


def test_a_method_of_ones_own_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {title: text for title, text in blocks(DOCS / "extend.md").items() if title.startswith("mine/")}
    assert set(files) == {"mine/sigma.py", "mine/scheme/sigma.yaml", "mine/method/sigma.yaml"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    mine, outputs = tmp_path / "mine", tmp_path / "outputs"
    monkeypatch.syspath_prepend(mine)
    importlib.invalidate_caches()
    model = tiny_folder(tmp_path / "model", **SMALL)
    try:
        result = dmq(*words("calibrate", model, outputs, "--config-dir", str(mine), "method=sigma"))
        assert result.code == 0, result.err
        listed = dmq("list", "methods")
        assert artifacts(outputs)["calibrate"] == 1 and "sigma" not in listed.out
    finally:
        sys.modules.pop("sigma", None)


@pytest.mark.skipif(not TABLES.is_dir(), reason="the tables are in a checkout")
def test_rows_that_the_shown_columns_do_not_tell_apart_are_refused() -> None:
    """Two rows of one method, of which one is corrected, would read as one number measured twice."""
    names = ["bits", "method", "FD-digits"]
    with pytest.raises(ConfigError, match=r"digits_ptq has rows that only .*overrides tell apart"):
        table(TABLES / "digits_ptq", ["w4a4"], ["brecq"], names)
    assert "correct=tac" in table(TABLES / "digits_ptq", ["w4a4"], ["brecq"], [*names, "overrides"])
    assert "correct=tac" not in table(TABLES / "digits_ptq", ["w4a4"], ["qdrop"], names)
