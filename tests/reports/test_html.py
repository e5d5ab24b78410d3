"""The page of `dmq report`: complete, self-contained, and honest about what it does not have."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmq_cli.report import evidence
from dmq_cli.report.figures.blocks import errors
from dmq_cli.report.figures.lines import size_by_call
from dmq_cli.report.figures.pictures import amplified, factor, fitting, strip
from dmq_cli.report.figures.style import COLOURS, Kind, looks
from dmq_cli.report.html import default_file, write_report
from dmq_cli.report.result_table import by_protocol, result_table
from dmq_cli.report.sections import images
from dmq_cli.report.statement import statement
from dmq_cli.results.runs import load_result
from dmq_cli.store import read_json, write_json
from dmq_cli.store.tensors import load_tensors, save_tensors
from tests.reports import runs
from tests.reports.runs import Array


@pytest.fixture(scope="module")
def page(report: Path) -> str:
    return report.read_text(encoding="utf-8")


def test_every_section_is_there_and_in_order(page: str) -> None:
    headings = re.findall(r'<h2 id="(\w+)"', page)
    assert headings == [
        "results", "cost", "images", "blocks", "trajectory", "ranges", "channels", "intervals", "correction", "losses",
        "cosine", "pareto", "made",
    ]  # fmt: skip
    for anchor in re.findall(r'href="#(\w+)"', page):
        assert f'id="{anchor}"' in page
    assert "dmq evaluate method=tac bits=w3a8" in page and "c0ffee" in page and "abad2ad904322c33" in page


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(page: str) -> None:
    assert "<script" not in page and "<link" not in page and "@import" not in page and "<iframe" not in page
    loaded = re.findall(r'\b(?:src|href|srcset|data|poster)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert len(loaded) >= 30
    assert all(url.startswith(("data:image/png;base64,", "#")) for url in loaded), set(url[:40] for url in loaded)
    assert len(page) < 3e6


def test_a_nasty_name_stays_text_also_inside_figures(page: str) -> None:
    assert "<script" not in page and page.count("&lt;script&gt;") >= 5
    svg = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "&lt;script&gt;alert" in svg and "$x$" in svg, "a legend names it, dollars are no formula"


def test_every_figure_has_a_caption_and_words_for_who_cannot_see_it(page: str) -> None:
    figures = re.findall(r'<figure class="plot">(.*?)</figure>', page, flags=re.DOTALL)
    assert len(figures) >= 10
    for figure in figures:
        assert len(re.findall(r"<figcaption>[^<]{60,}</figcaption>", figure)) == 1
        assert len(re.findall(r'role="img" aria-label="[^"]{20,}"', figure)) == 1
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 5 + 3 + 3 + 3 and all('alt="' in image and "width=" in image for image in images)


def test_a_reconstruction_that_runs_share_is_shown_once(page: str) -> None:
    first, second = re.findall(r"Loss of (.*?) while each block", page)
    assert "script" in first and first.endswith(" W4A8, tac W3A8") and second == "tcaq W3A8"


def test_colours_and_fonts_are_those_of_the_page(page: str) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--ink)" in svg and "var(--c1)" in svg
    assert not re.findall(r"#01020[0-9a-f]|DejaVu|xmlns", svg)
    for name in set(re.findall(r"var\((--\w+)\)", page)):
        assert page.count(f"{name}:") == 2, "once for light, once for dark"


def test_a_section_without_data_says_why(page: str, tmp_path: Path) -> None:
    assert "made before traces existed; evaluate again" in page and "nothing is learned block by block" in page
    assert "What is not shown" not in page
    gone = load_result(runs.cell(tmp_path, "t", runs.metrics("minmax")))
    shown = write_report([gone], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [section.id for section in shown.sections] == ["pareto"]
    for sentence in (
        "made before traces existed",
        "neither trace nor samples are on this machine",
        "nothing is rewritten",
    ):
        assert sentence in text
    assert "What is not shown" in text and "Error by block and step" in text


def test_where_no_input_is_quantized_there_are_no_ranges(tmp_path: Path) -> None:
    folder = runs.run(tmp_path, runs.metrics("minmax"))
    (trace,) = (tmp_path / "artifacts" / "trace").iterdir()
    arrays = load_tensors(trace / "trace.safetensors")
    none = {"activations": arrays["activations"][:, :0], "scales": arrays["scales"][:, :0]}
    save_tensors(trace / "trace.safetensors", {**arrays, **{name: part.contiguous() for name, part in none.items()}})
    write_json(trace / "trace.json", {**read_json(trace / "trace.json"), "sites": []})
    runs.seal(trace)
    page = write_report([load_result(folder)], tmp_path / "page.html")
    assert "no layer of these runs quantizes its input" in str(page) and "blocks" in {part.id for part in page.sections}


def test_what_was_not_asked_for_is_not_told_to_be_gone(tmp_path: Path) -> None:
    config = {"correct": {"_target_": "dmq_cli.correct.NoCorrection"}}
    result = load_result(runs.run(tmp_path, runs.metrics("minmax", config=config), kept=False))
    for read, reason in ((evidence.corrections, "correct=none"), (evidence.losses, "recon=none")):
        with pytest.raises(evidence.Absent, match=reason):
            read(result)


def test_maps_of_other_blocks_have_names_of_their_own(tmp_path: Path) -> None:
    trace = evidence.trace(load_result(runs.run(tmp_path, runs.metrics("minmax"))))
    other = replace(trace, blocks=[f"else.{place}" for place in range(len(trace.blocks))])
    both = errors({"a": trace, "b": other})
    assert "conv_in" in both and "else.0" in both
    assert errors({"a": trace, "b": trace}).count("conv_in") == both.count("conv_in"), (
        "names that all share are drawn once"
    )


def measured(tmp_path: Path, *found: dict[str, Any]) -> list[dict[str, Any]]:
    named = {
        f"run {n}": load_result(runs.run(tmp_path, metrics, f"r{n}", kept=False)) for n, metrics in enumerate(found)
    }
    return [dict(group) for group in by_protocol(named)]


def test_protocols_models_and_samplers_never_share_a_table(tmp_path: Path) -> None:
    base = runs.metrics("tac")
    other = {**base, "protocol": {**base["protocol"], "hash": "other", "name": "digits_latent"}}
    steps = {**base, "config": {**base["config"], "sampler": {"num_inference_steps": 20}}}
    seeds = {**base, "seeds": ["5000-6999"]}
    silent = {**base, "config": {**base["config"], "cond": {"guidance": None}, "numerics": {}}}
    groups = measured(tmp_path, base, other, steps, seeds, silent)
    assert [list(group) for group in groups] == [["run 0", "run 4"], ["run 1"], ["run 2"], ["run 3"]]
    assert "20 steps" in result_table(groups[2]).caption and "digits_latent (other)" in result_table(groups[1]).caption


def test_the_table_tells_differences_and_whether_they_can_be_noise(tmp_path: Path) -> None:
    (group,) = measured(tmp_path, runs.metrics("tac"), runs.metrics("minmax", fd=5.4))
    table = result_table(group)
    assert [column.title for column in table.columns] == [
        "FD-digits ↓",
        "FD-digits∞ ↓",
        "IS-digits ↑",
        "PSNR to FP ↑",
        "SSIM to FP ↑",
    ]
    (worse, minmax), (better, tac) = table.rows
    assert (worse, better) == ("run 1", "run 0"), "from baselines to what builds on them"
    assert (tac[0].text, tac[0].more, tac[0].delta, tac[0].judged) == (
        "0.60",
        "[0.52, 0.68]",
        "+0.07",
        "inside the noise",
    )
    assert (minmax[0].delta, minmax[0].judged) == ("+4.87", "outside the noise")
    assert (minmax[2].delta, minmax[2].judged) == ("\u22121.86", "noise unknown"), "IS has no interval here"
    assert [value.best for value in tac] == [True, True, True, True, False], "all have the same SSIM"
    assert (table.full[0].text, table.full[0].delta) == ("0.53", "") and tac[3].text == "35.22 dB"


def test_the_difference_shown_is_the_one_that_was_judged(tmp_path: Path) -> None:
    metrics = runs.metrics("tac", over_fp={"fd": 0.02})
    metrics["intervals"]["over_fp"] = {"fd": [0.01, 0.03]}
    (group,) = measured(tmp_path, metrics)
    value = result_table(group).rows[0][1][0]
    assert (value.delta, value.judged) == ("+0.02", "outside the noise"), "0.60 - 0.53 is not what was judged"
    assert "a difference of +0.02 on the same seeds, outside the noise" in statement(group)


def test_several_seed_ranges_show_their_deviation(tmp_path: Path) -> None:
    metrics = runs.metrics("tac")
    metrics["quantized"] = {**metrics["quantized"], "fd_over_seeds": {"std": 0.02, "each": [0.58, 0.6, 0.62]}}
    (group,) = measured(tmp_path, metrics)
    value = result_table(group).rows[0][1][0]
    assert (value.more, value.judged) == ("± 0.02", "inside the noise")


def test_the_statement_names_the_best_the_worst_and_its_doubts(tmp_path: Path) -> None:
    config = {"budget": {"name": "smoke"}}
    (group,) = measured(tmp_path, runs.metrics("tac"), runs.metrics("minmax", fd=5.4, config=config, weights=None))
    text = statement(group)
    assert text.startswith(
        "Of 2 runs on ddim_digits, run 0 has the best FD-digits: 0.60 [0.52, 0.68] against 0.53 [0.46, 0.60]"
    )
    assert (
        "inside the noise" in text
        and "(9.1 times fewer bytes)" in text
        and "The worst is run 1 with 5.40 [5.32, 5.48]." in text
    )
    assert "budget was smoke" in text and "random" not in text
    (alone,) = measured(tmp_path / "alone", runs.metrics("tac", weights="random"))
    assert statement(alone).startswith(
        "run 0 brings ddim_digits to FD-digits 0.60"
    ) and "weights are random" in statement(alone)


def test_a_method_keeps_its_colour_and_runs_can_be_told_apart() -> None:
    first = {f"{method} {bits}": Kind(method, bits) for method in ("new", "tac", "minmax") for bits in ("w4a8", "w3a8")}
    many = {f"m{n}": Kind(f"m{n}", "w4a8") for n in range(12)}
    styles = looks(first, many)
    assert (
        styles["tac w4a8"].colour
        == styles["tac w3a8"].colour
        == COLOURS[1]
        == looks({"a": Kind("tac", "x"), "b": Kind("new", "x")})["a"].colour
    )
    assert len({styles[label] for label in first}) == 6 and len({styles[label].colour for label in first}) == 3
    alike = {f"lambda {n}": Kind("tac", "w3a8") for n in range(7)}
    assert len(set(looks(alike).values())) == 7


def test_differences_are_amplified_as_far_as_they_fit() -> None:
    full = np.random.default_rng(0).integers(0, 128, (4, 16, 16, 1))
    near: Array = full + 3
    assert factor([(full, near)]) == 16 and factor([(full, full + 60)]) == 4 and factor([]) == 16
    assert amplified(full, near, 16).tolist() == (full * 0 + 48).tolist() == amplified(near, full, 16).tolist()


@pytest.mark.parametrize(
    ("size", "count", "shown"), [(16, 8, 96), (28, 9, 84), (32, 8, 96), (64, 6, 128), (96, 8, 96), (256, 8, 96)]
)
def test_as_many_images_as_fit_are_shown_large(size: int, count: int, shown: int) -> None:
    images = fitting(np.zeros((16, size, size, 3), np.uint8))
    _, width, height = strip(images)
    assert (len(images), height) == (count, shown) and count * shown <= width <= 816


def test_the_page_says_how_the_images_were_chosen(tmp_path: Path) -> None:
    traced = load_result(runs.run(tmp_path, runs.metrics("tac", config={"trace": {"seeds": "3000000-3000063"}})))
    sampled = load_result(runs.run(tmp_path / "other", runs.metrics("tac"), traced=False))
    about = images({"a": traced, "b": sampled}).about
    assert "the first 8 of the seeds 3000000-3000063 that the trace walked or" in about
    assert "the first 8 of the seeds 0-1999 that the run sampled." in about


def test_the_size_of_a_bias_is_over_all_of_a_sample_whatever_its_shape() -> None:
    bias = np.random.default_rng(0).normal(size=(3, 2, 4, 4))
    expected = [np.linalg.norm(call) / np.sqrt(call.size) for call in bias]
    for shape in ((2, 4, 4), (8, 4), (32,), (2, 2, 2, 2, 2)):
        assert size_by_call(bias.reshape(3, *shape)) == pytest.approx(expected)


def test_headings_say_of_what_there_are_fewer(page: str) -> None:
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', page)
    assert {"times fewer<br>bytes", "times fewer<br>GBOPs"} <= set(heads) and not {"smaller", "fewer"} & set(heads)
    assert "Times fewer is against full precision" in page and "times fewer bytes)" in page


@pytest.mark.filterwarnings("error")
def test_a_run_that_quantizes_nothing_has_no_error_to_show(tmp_path: Path) -> None:
    cost = {"macs": 10, "bops": 134.5e9, "bops_fp": 134.5e9, "size_bytes": 4.45e6, "size_bytes_fp": 4.45e6}
    folder = runs.run(tmp_path, runs.metrics("minmax", cost=cost))
    (file,) = (tmp_path / "artifacts" / "trace").glob("*/trace.safetensors")
    gone = ("trajectory", "eps", "block_error")
    arrays = {name: array * 0 if name.startswith(gone) else array for name, array in load_tensors(file).items()}
    save_tensors(file, arrays)
    runs.seal(file.parent)
    page = write_report([load_result(folder)], tmp_path / "page.html")
    (sentence,) = [reason for titles, reason in page.missing if "Error along the trajectory" in titles]
    assert "no error" in sentence and "shrinks" not in page.statements[0] and "keeps its 4.45 MB" in page.statements[0]


def test_a_bad_run_leaves_the_differences_of_the_others(tmp_path: Path) -> None:
    folders = [runs.run(tmp_path, runs.metrics(method)) for method in ("tac", "minmax")]
    file = next((tmp_path / "artifacts" / "trace").glob("*minmax*")) / "images.npz"
    arrays = dict(np.load(file))
    np.savez(file, full=arrays["full"], quantized=255 - arrays["full"])
    runs.seal(file.parent)
    shown = images({folder.name: load_result(folder) for folder in folders})
    labels = [next(row.label for row in rows if "difference" in row.label) for _, rows in shown.strips]
    assert labels == ["difference \u00d78", "difference \u00d71"]


def test_where_a_report_goes(tmp_path: Path) -> None:
    run, cell = runs.run(tmp_path, runs.metrics("tac"), kept=False), runs.cell(tmp_path, "demo", runs.metrics("tac"))
    run_result, cell_result = load_result(run), load_result(cell)
    assert default_file([run_result], [str(run)], tmp_path) == run / "report.html"
    assert default_file([cell_result], [str(cell)], tmp_path) == tmp_path / "reports" / f"{cell.name}.html"
    assert default_file([cell_result, cell_result], ["demo"], tmp_path) == tmp_path / "reports" / "demo.html"
    several = default_file([run_result, cell_result], [str(run), "demo"], tmp_path)
    assert several.parent == tmp_path / "reports" and several == default_file(
        [run_result, cell_result], ["x", "y"], tmp_path
    )
