"""The pages in a real browser, wide and narrow: nothing overlaps, nothing runs over, every picture is there and links work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.paths import PACKAGE
from dmq_cli.report.compare import compare, write_comparison
from dmq_cli.report.html import write_report
from dmq_cli.results.runs import load_result, load_results
from tests.reports import runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"),
]
WIDTHS = pytest.mark.parametrize("width", [1400, 400])
TABLES = PACKAGE.parent / "outputs" / "tables"

MEASURE = """() => {
  const width = document.documentElement.clientWidth, wrong = [];
  const name = e => e.tagName + "." + (e.getAttribute("class") || "") + " " + (e.textContent || "").trim().slice(0, 30);
  for (const e of document.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (e.checkVisibility() && !e.closest(".scroll") && (box.right > width + 1 || box.left < -1)) wrong.push("too wide: " + name(e));
  }
  if (document.documentElement.scrollWidth > width) wrong.push("the page scrolls sideways");
  let hinted = 0;
  for (const e of document.querySelectorAll(".scroll")) {
    if (!e.checkVisibility()) continue;
    const over = e.scrollWidth > e.clientWidth + 1, hint = getComputedStyle(e.firstElementChild, "::before");
    const told = parseFloat(hint.paddingBottom) >= 14 && hint.content.includes("scroll sideways");
    if (over && width >= 1400) wrong.push("cut off at the side: " + name(e));
    if (over !== told) wrong.push((over ? "no hint to scroll: " : "a hint to scroll what fits: ") + name(e));
    hinted += told;
  }
  const boxes = [...document.querySelectorAll("h1, h2, h3, p, dl, nav, .scroll, figcaption, pre, summary, img")].filter(e => e.checkVisibility());
  const rects = boxes.map(e => e.getBoundingClientRect());
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const a = rects[i], b = rects[j];
    if (boxes[i].contains(boxes[j]) || !a.height || !b.height) continue;
    const x = Math.min(a.right, b.right) - Math.max(a.left, b.left), y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (x > 1 && y > 1) wrong.push("overlap: " + name(boxes[i]) + " and " + name(boxes[j]));
  }
  for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")].map(e => [e, e.getBoundingClientRect()]);
    for (const [e, box] of texts) {
      if (box.right > frame.right + 2 || box.left < frame.left - 2) wrong.push("cut off: " + name(e));
      if (box.height < 8) wrong.push("illegible: " + name(e));
    }
    for (let i = 0; i < texts.length; i++) for (let j = i + 1; j < texts.length; j++) {
      const a = texts[i][1], b = texts[j][1];
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left), y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 2 && y > 4) wrong.push("labels overlap: " + name(texts[i][0]) + " and " + name(texts[j][0]));
    }
  }
  const broken = [...document.images].filter(e => !e.complete || !e.naturalWidth).length;
  if (broken) wrong.push(broken + " broken images");
  const links = [...document.querySelectorAll("a[href]")];
  for (const e of links) {
    const url = new URL(e.href);
    if (url.pathname !== location.pathname) continue;
    if (!document.getElementById(decodeURIComponent(url.hash.slice(1)))) wrong.push("leads nowhere: " + e.getAttribute("href"));
  }
  return {width, seen: boxes.length, images: document.images.length, hinted, links: links.map(e => e.href), wrong};
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make venv installs it)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def look(browser: Any, page: Path, width: int, scratch: Path) -> dict[str, Any]:
    """What is on a page in a window of this width, and all that is wrong with it; leaves a screenshot in scratch."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    wrong: list[str] = []
    tab.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    tab.on("requestfailed", lambda request: wrong.append(f"not loaded: {request.url[:80]}"))
    tab.goto(page.as_uri())
    measures: dict[str, Any] = tab.evaluate(MEASURE)
    shot = scratch / f"{page.stem}-{width}.png"
    tab.screenshot(path=shot, full_page=True)
    tab.close()
    assert shot.stat().st_size > 10_000 or measures["seen"] < 10
    files = [link for link in measures["links"] if link.startswith("file:") and "#" not in link]
    missing = [f"leads nowhere: {link}" for link in files if not Path(link.removeprefix("file://")).exists()]
    return {**measures, "wrong": [*measures["wrong"], *wrong, *missing]}


@WIDTHS
def test_a_report_of_runs_is_in_order(browser: Any, report: Path, width: int, tmp_path: Path) -> None:
    measures = look(browser, report, width, tmp_path)
    assert (
        measures["width"] == width
        and measures["images"] == 14
        and measures["seen"] >= 60
        and len(measures["links"]) >= 10
    )
    assert (measures["hinted"] >= 10) == (width == 400)
    assert measures["wrong"] == []


@WIDTHS
def test_a_comparison_is_in_order(browser: Any, width: int, tmp_path: Path) -> None:
    metrics = [runs.metrics("tac"), runs.metrics("a_method_with_quite_a_long_name", fd=1.5)]
    results = [load_result(runs.run(tmp_path, measures)) for measures in metrics]
    write_comparison(compare(results), tmp_path / "compare.html")
    measures = look(browser, tmp_path / "compare.html", width, tmp_path)
    assert measures["images"] == 8 and measures["wrong"] == []


@WIDTHS
@pytest.mark.parametrize("table", ["digits_ptq", "tac_4-digits", "tac_pull"])
@pytest.mark.skipif(not TABLES.is_dir(), reason="the committed cells of the tables are in a checkout")
def test_a_table_is_in_order(browser: Any, table: str, width: int, tmp_path: Path) -> None:
    write_report(load_results([table], TABLES.parent), tmp_path / "table.html")
    measures = look(browser, tmp_path / "table.html", width, tmp_path)
    assert measures["wrong"] == [] and measures["seen"] >= 15 and (measures["hinted"] >= 2) == (width == 400)


def test_the_measure_sees_what_is_wrong(browser: Any, tmp_path: Path) -> None:
    bad = (
        '<div style="width:900px">x</div><p>a</p><p style="margin-top:-30px">b</p><img src="data:image/png;base64,AAAA" width="9" height="9">'
        '<a href="#gone">c</a><a href="gone.html">d</a><script>console.error("e"); f()</script>'
        '<div class="scroll" style="overflow:auto"><div style="width:900px">g</div></div>'
    )
    (tmp_path / "bad.html").write_text(f"<!DOCTYPE html><body>{bad}</body>", encoding="utf-8")
    wrong = " ".join(look(browser, tmp_path / "bad.html", 400, tmp_path)["wrong"])
    faults = ("too wide: DIV", "sideways", "overlap: P. a and P. b", "1 broken image", "nowhere: #gone", "/gone.html")
    assert all(fault in wrong for fault in (*faults, "console: e", "script: f is not", "no hint to scroll: DIV")), wrong
