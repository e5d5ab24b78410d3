"""The parts of a report that show something: each with figures and what is seen in them, or a sentence why there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from dmq_cli.report import evidence
from dmq_cli.report.evidence import Gathered, gather
from dmq_cli.report.figures import activations, blocks, learning, lines, pictures, tradeoff
from dmq_cli.report.figures.style import Look
from dmq_cli.report.widths import input_bits
from dmq_cli.results.runs import Result
from dmq_cli.results.trace import Trace
from dmq_cli.results.verdict import lower_is_better
from dmq_cli.store import digest

Runs = Mapping[str, Result]
Looks = Mapping[str, Look]


@dataclass(frozen=True)
class Figure:
    """svg: the element. caption: what is seen, with units. alt: the same for who cannot see it."""

    svg: Markup
    caption: str
    alt: str


@dataclass(frozen=True)
class Strip:
    """One row of images. source: a data URI; width, height: what it is shown at, in page pixels."""

    label: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """absent: sentences about runs that have nothing to show here."""

    id: str
    title: str
    about: str = ""
    figures: list[Figure] = field(default_factory=list)
    strips: list[tuple[str, list[Strip]]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def shows(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self.figures or self.strips)


def sections(runs: Runs, groups: Sequence[Runs], looks: Looks) -> list[Section]:
    """All of them, in the order of the page. runs: those that are drawn; groups: every run, by protocol."""
    traces = gather(runs, evidence.trace)
    errors = traces.then(evidence.with_errors)
    return [
        images(runs),
        _blocks(errors),
        _trajectory(errors, looks),
        _ranges(runs, traces),
        _channels(gather(runs, evidence.transformed)),
        _intervals(runs, traces, looks),
        _corrections(gather(runs, evidence.corrections), looks),
        _losses(gather(runs, evidence.losses)),
        _cosine(traces, looks),
        _pareto(groups, looks),
    ]


def images(runs: Runs) -> Section:
    """The images of every run beside those of full precision, and the differences."""
    gathered = gather(runs, evidence.pictures)
    fitting = {
        label: {name: pictures.fitting(images) for name, images in shown_images.items()}
        for label, shown_images in gathered.present.items()
    }
    strips = [(label, _rows(shown_images)) for label, shown_images in fitting.items()]
    chosen = dict.fromkeys(_chosen(runs[label], shown_images) for label, shown_images in fitting.items())
    about = (
        f"Nobody picked these images: they are {' or '.join(chosen)}. Every column starts from the same noise. Below each row of a quantized network is its absolute difference to the row"
        " of full precision, multiplied by what is written beside it, which is chosen for each run: black is no difference."
    )  # fmt: skip
    return Section("images", "Images from the same noise", about, strips=strips, absent=gathered.without())


def _chosen(result: Result, shown_images: Mapping[str, evidence.Array]) -> str:
    """Which seeds the images of a run are of."""
    if "sampled" in shown_images:
        seeds, by = result.evaluation.seeds[0], "that the run sampled"
    else:
        seeds, by = (result.config.get("trace") or {}).get("seeds", ""), "that the trace walked"
    return f"the first {len(shown_images['full'])} of the seeds {seeds} {by}".replace("  ", " ")


def _rows(shown_images: Mapping[str, evidence.Array]) -> list[Strip]:
    """The images of one run; its factor is its own, so that a bad run leaves the others' differences visible."""
    compared = {name: compared_images for name, compared_images in shown_images.items() if name != "full"}
    times = pictures.factor((shown_images["full"], compared_images) for compared_images in compared.values())
    rows = [_strip("full precision", shown_images["full"])]
    for name, compared_images in compared.items():
        difference = pictures.amplified(shown_images["full"], compared_images, times)
        rows += [_strip(_words(name, shown_images), compared_images), _strip(f"difference \u00d7{times}", difference)]
    return rows


_WORDS = {
    "quantized": "quantized",
    "corrected": "quantized and corrected",
    "sampled": "quantized, as sampled",
}


def _words(name: str, shown_images: Mapping[str, object]) -> str:
    return "quantized, not corrected" if name == "quantized" and "corrected" in shown_images else _WORDS[name]


def _blocks(gathered: Gathered[Trace]) -> Section:
    figures = []
    if gathered.present:
        caption = (
            "Squared error of every block's output, divided by the squared output of full precision at the same step, each on"
            f" its own trajectory, median over {_samples(gathered.present)} samples. Rows are blocks in the order they run, columns the steps of sampling; the colours are logarithmic."
        )
        figures = [
            _figure(
                blocks.errors(gathered.present),
                caption,
                f"Heat maps of block error over steps for {_names(gathered.present)}.",
            )
        ]
    return Section("blocks", "Error by block and step", figures=figures, absent=gathered.without())


def _trajectory(gathered: Gathered[Trace], looks: Looks) -> Section:
    figures = []
    if gathered.present:
        caption = (
            "Left: squared distance of the sampler's state to that of full precision from the same noise, divided by the squared"
            " size of the latter, before every step and for the finished image. Right: the same of the network's estimate."
            f" Median over {_samples(gathered.present)} samples."
        )
        alt = f"Lines of relative error over sampling steps for {_names(gathered.present)}; at the end {_ends(gathered.present)}."
        figures = [_figure(lines.trajectory(gathered.present, looks), caption, alt)]
    return Section("trajectory", "Error along the trajectory", figures=figures, absent=gathered.without())


def _ranges(runs: Runs, gathered: Gathered[Trace]) -> Section:
    figures = []
    watched = {label: trace for label, trace in gathered.present.items() if trace.sites}
    networks = _networks(runs, watched)
    for label, group in networks.items():
        trace = group[label]
        caption = (
            "Inputs of the four layers whose range changes most between steps, in full precision: box from first to third quartile,"
            f" whiskers to the least and greatest value, over {trace.samples} samples and all elements{_of(label, networks)}."
        )
        names = ", ".join(trace.sites[site] for site in activations.telling(trace))
        figures.append(
            _figure(activations.boxes(trace), caption, f"Box plots over timesteps of the inputs of {names}.")
        )
    absent = gathered.without()
    if gathered.present and not watched:
        absent.append("Not shown: no layer of these runs quantizes its input.")
    return Section("ranges", "Activation ranges over timesteps", figures=figures, absent=absent)


def _channels(gathered: Gathered[Trace]) -> Section:
    figures = [
        _figure(
            activations.channels(trace),
            f"Greatest |input| of every channel before and after {label} rewrites the network: the four convolutions with the"
            " most uneven channels. Bars: over all timesteps; line: at the timestep where the channel is smallest. Every panel has a scale of its own: how even the channels are is what counts.",
            f"Bar charts of channel maxima before and after the transform of {label}.",
        )
        for label, trace in gathered.present.items()
    ]
    return Section("channels", "Channels before and after the transform", figures=figures, absent=gathered.without())


def _intervals(runs: Runs, gathered: Gathered[Trace], looks: Looks) -> Section:
    figures = []
    networks = _networks(runs, {label: trace for label, trace in gathered.present.items() if trace.sites})
    for label, alike in networks.items():
        bits = {name: input_bits(runs[name].evaluation.policy, trace.sites) for name, trace in alike.items()}
        sites = activations.covered(alike, bits)
        if not sites:
            continue
        caption = (
            "What the input quantizers can represent, scale times (2^bits - 1) with the bits of each layer, beside the width (greatest less least value) of the inputs"
            f" in full precision, grey{_of(label, networks)}. A flat line is one interval for all steps; where it runs through the grey,"
            " values are clipped, and where it runs far above, levels are wasted."
        )
        svg = activations.intervals(alike, bits, looks, sites)
        figures.append(_figure(svg, caption, f"Quantizer intervals over timesteps for {_names(alike)}."))
    absent = gathered.without()
    if gathered.present and not figures:
        absent.append(
            "Not shown: no input quantizer of these runs has a uniform interval of its own and bits that are known."
        )
    return Section("intervals", "Intervals of the quantizers over timesteps", figures=figures, absent=absent)


def _corrections(gathered: Gathered[dict[str, evidence.Array]], looks: Looks) -> Section:
    figures = []
    if gathered.present:
        caption = (
            "Left: K multiplies the noise estimate; 0 means no change; dashed the factor that brings the quantized estimate nearest to the"
            " full-precision one on the same input, which is what a gain can mend. Right: B is subtracted from the network's input,"
            " in units of the sampler's state. Calls are counted from the noise to the image."
            + "".join(
                f" K of {label} stays within {evidence.INERT} of 1 everywhere, so its gain does nothing: correct.lambda2 holds it there."
                for label, tables in gathered.present.items()
                if evidence.is_inert(tables)
            )
        )
        figures = [
            _figure(
                lines.correction(gathered.present, looks),
                caption,
                f"Lines of K and B over network calls for {_names(gathered.present)}.",
            )
        ]
    return Section("correction", "Correction over steps", figures=figures, absent=gathered.without())


def _losses(gathered: Gathered[evidence.Losses]) -> Section:
    figures = [
        _figure(learning.curves(passes), *_captions(_names(labels), passes))
        for labels, passes in _shared(gathered.present)
    ]
    return Section("losses", "Losses of learning", figures=figures, absent=gathered.without())


def _captions(names: str, passes: evidence.Losses) -> tuple[str, str]:
    """What is seen of the losses of a training, where the network learns as a whole, or of a reconstruction; the same without seeing it."""
    if all(len(units) == 1 for units in passes.values()):
        return (
            f"Losses of {names} over the steps of the training: of its batches, of what is held out, and the distance in decibels of the"
            " candidates' images from those of full precision (less is nearer).",
            f"Loss curves of the training of {names}.",
        )
    return (
        f"Loss of {names} while each block learns to repeat its full-precision outputs, a line for each block, with the"
        " loss as the pass defines it; dark blocks come first in the network.",
        f"Loss curves of {sum(map(len, passes.values()))} blocks of {names}.",
    )


def _shared(present: Mapping[str, evidence.Losses]) -> list[tuple[list[str], evidence.Losses]]:
    """Every reconstruction once, with the runs that share it."""
    reconstructions: list[tuple[list[str], evidence.Losses]] = []
    for label, passes in present.items():
        same = next((labels for labels, losses in reconstructions if losses == passes), None)
        if same is None:
            reconstructions.append(([label], passes))
        else:
            same.append(label)
    return reconstructions


def _cosine(gathered: Gathered[Trace], looks: Looks) -> Section:
    figures = []
    if gathered.present:
        caption = (
            "Cosine similarity between each block's output and that of full precision at the same step, mean over"
            f" {_samples(gathered.present)} samples; 1 is the same direction. Left: mean over all blocks; right: the block that is worst at each step."
        )
        figures = [
            _figure(
                lines.cosine(gathered.present, looks),
                caption,
                f"Lines of cosine similarity over steps for {_names(gathered.present)}.",
            )
        ]
    return Section("cosine", "Similarity of the blocks' outputs over steps", figures=figures, absent=gathered.without())


def _pareto(groups: Sequence[Runs], looks: Looks) -> Section:
    figures, absent = [], []
    for group in groups:
        first = next(iter(group.values())).evaluation
        side, key = first.headline or ("", "")
        if side == "paired":
            names = _names(group)
            absent.append(
                f"Not shown for {names}: compared with full precision alone, which has no distance to itself."
            )
            continue
        name, full = first.protocol["columns"].get(key, key), first.fp.get(key)
        counted = {label: cost for label, run in group.items() if (cost := run.evaluation.cost) is not None}
        absent += [
            f"Not shown for {label}: its cost was not counted when it was made."
            for label in group
            if label not in counted
        ]
        if not counted or full is None or not lower_is_better(key):
            continue
        points = {
            label: tradeoff.Point(cost.bops / 1e9, number)
            for label, cost in counted.items()
            if (number := group[label].evaluation.quantized.get(key)) is not None
        }
        whole = tradeoff.Point(next(iter(counted.values())).bops_fp / 1e9, full)
        caption = f"{name} against bit operations of one network call; lower and to the left is better. The dotted line joins what nothing cheaper beats. {first.model}, protocol {first.protocol['name']}."
        alt = f"Scatter plot of {name} over GBOPs for {len(points)} runs and full precision."
        figures.append(_figure(tradeoff.pareto(points, whole, looks, name), caption, alt))
    return Section("pareto", "Distance against cost", figures=figures, absent=absent)


def _figure(svg: str, caption: str, alt: str) -> Figure:
    return Figure(Markup(svg), caption, alt)


def _strip(label: str, images: evidence.Array) -> Strip:
    return Strip(label, *pictures.strip(images))


def _networks(runs: Runs, traces: Mapping[str, Trace]) -> dict[str, dict[str, Trace]]:
    """The traces by the full-precision network that was walked, and how; named after the first run of each."""
    groups: dict[str, dict[str, Trace]] = {}
    for label, trace in traces.items():
        groups.setdefault(digest([_walked(runs[label]), trace.sites, trace.timesteps]), {})[label] = trace
    return {next(iter(group)): group for group in groups.values()}


def _walked(result: Result) -> list[Any]:
    """Model and sampler, and the rewriting if there is any."""
    config = result.config
    rewritten = None if evidence.NO_TRANSFORM in str(config.get("transform")) else str(result.artifact("transform"))
    return [config["model"].get("sha256", config["model"]["name"]), config["sampler"], config.get("cond"), rewritten]


def _of(label: str, networks: Mapping[str, object]) -> str:
    """Which network it is, where there are several."""
    return f" (network of {label})" if len(networks) > 1 else ""


def _names(runs: Iterable[str]) -> str:
    return ", ".join(runs)


def _samples(traces: Mapping[str, Trace]) -> str:
    return " or ".join(dict.fromkeys(str(trace.samples) for trace in traces.values()))


def _ends(traces: Mapping[str, Trace]) -> str:
    return ", ".join(f"{label} {trace.trajectory[trace.twins[-1]][-1]:.2g}" for label, trace in traces.items())
