"""The page in a real browser, wide and narrow: nothing overlaps, nothing runs over, every picture is there."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.report.compare import compare, write_comparison
from dmq_cli.results.runs import load_result
from tests.reports import runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")

# Runs in the page when everything is laid out and leaves what it found in the title, which --dump-dom prints.
# A headless window cannot be narrower than 500 pixels: the page is laid out in a frame of its own width.
MEASURE = """<script>addEventListener("load", () => {
  const page = document.getElementById("page").contentDocument, width = page.documentElement.clientWidth, wrong = [];
  const name = e => e.tagName + "." + (e.getAttribute("class") || "") + " " + (e.textContent || "").trim().slice(0, 30);
  for (const e of page.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (e.checkVisibility() && !e.closest(".scroll, pre") && (box.right > width + 1 || box.left < -1)) wrong.push("too wide: " + name(e));
  }
  for (const e of page.querySelectorAll(".scroll")) if (width >= 1400 && e.scrollWidth > e.clientWidth + 1) wrong.push("cut off at the side: " + name(e));
  if (page.documentElement.scrollWidth > width) wrong.push("the page scrolls sideways");
  const boxes = [...page.querySelectorAll("h1, h2, h3, p, nav, .scroll, figcaption, pre, summary, img")].filter(e => e.checkVisibility());
  const rects = boxes.map(e => e.getBoundingClientRect());
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const a = rects[i], b = rects[j];
    if (boxes[i].contains(boxes[j]) || !a.height || !b.height) continue;
    const x = Math.min(a.right, b.right) - Math.max(a.left, b.left), y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (x > 1 && y > 1) wrong.push("overlap: " + name(boxes[i]) + " and " + name(boxes[j]));
  }
  for (const svg of page.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")].map(e => [e, e.getBoundingClientRect()]);
    for (const [e, box] of texts) if (box.right > frame.right + 2 || box.left < frame.left - 2) wrong.push("cut off: " + name(e));
    for (let i = 0; i < texts.length; i++) for (let j = i + 1; j < texts.length; j++) {
      const a = texts[i][1], b = texts[j][1];
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left), y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 2 && y > 4) wrong.push("labels overlap: " + name(texts[i][0]) + " and " + name(texts[j][0]));
    }
  }
  const broken = [...page.images].filter(e => !e.naturalWidth).length;
  if (broken) wrong.push(broken + " broken images");
  document.title = JSON.stringify({width, seen: boxes.length, images: page.images.length, wrong});
});</script>"""


def look(page: Path, width: int, scratch: Path) -> dict[str, Any]:
    """What the browser finds wrong with a page in a window of this width."""
    text = html.escape(page.read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe id="page" srcdoc="{text}" style="border:0;width:{width}px;height:900px"></iframe>'
    (scratch / "measured.html").write_text(f'<!DOCTYPE html><meta charset="utf-8">{MEASURE}{frame}', encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
        f"--user-data-dir={scratch / 'profile'}", "--window-size=1500,1000", "--dump-dom", f"file://{scratch / 'measured.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout.partition("<iframe")[0])
    assert title, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(title[1]))
    return found


@pytest.mark.parametrize("width", [1400, 420])
def test_a_report_is_in_order(report: Path, width: int, tmp_path: Path) -> None:
    found = look(report, width, tmp_path)
    assert found["width"] == width and found["images"] == 14 and found["seen"] >= 60
    assert found["wrong"] == []


@pytest.mark.parametrize("width", [1400, 420])
def test_a_comparison_is_in_order(width: int, tmp_path: Path) -> None:
    given = [runs.metrics("tac"), runs.metrics("a_method_with_quite_a_long_name", fd=1.5)]
    results = [load_result(runs.run(tmp_path, found)) for found in given]
    write_comparison(compare(results), tmp_path / "compare.html")
    found = look(tmp_path / "compare.html", width, tmp_path)
    assert found["images"] == 8 and found["wrong"] == []


def test_the_measure_sees_what_is_wrong(tmp_path: Path) -> None:
    bad = '<div style="width:900px">x</div><p>a</p><p style="margin-top:-30px">b</p><img src="data:image/png;base64,AAAA" width="9" height="9">'
    (tmp_path / "bad.html").write_text(f"<!DOCTYPE html><body>{bad}</body>", encoding="utf-8")
    wrong = " ".join(look(tmp_path / "bad.html", 420, tmp_path)["wrong"])
    assert all(one in wrong for one in ("too wide: DIV", "sideways", "overlap: P. a and P. b", "1 broken image"))
