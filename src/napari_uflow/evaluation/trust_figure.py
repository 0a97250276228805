"""Figure of a trust report: observed false alarms, tails, and the probability of detection of planted defects."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from napari_uflow.evaluation.drift import DriftState
from napari_uflow.evaluation.figures import DPI, FOUND_HEADING, QUIET_COLOUR, TEXT_COLOUR
from napari_uflow.evaluation.pod import ALL_KINDS
from napari_uflow.evaluation.sensitivity import Sensitivity
from napari_uflow.evaluation.trust import EPSILONS, TrustReport
from napari_uflow.nfa.calibrated import QQ_LEVELS
from napari_uflow.nfa.drift import LOG10_WARNING
from napari_uflow.wording import counted

__all__ = ["trust_figure"]

_COLOURS = ("#0b6fa4", "#19a3a3", "#7a5cc0", "#d96b00", "#c23b5a", "#6b8e23", "#8c5a2b")


def trust_figure(report: TrustReport, *, title: str = "", upright: bool = False) -> Figure:
    """Draw a trust report: false alarms, the tails of every map, and if any the evidence of drift and planted defects.

    Parameters
    ----------
    report : TrustReport
        Report to draw.
    title : str
        Title, such as the name of the model.
    upright : bool
        True stacks the plots, for a narrow panel; False draws them side by side.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with an Agg canvas, for :func:`~napari_uflow.evaluation.figures.save_figure`,
        :func:`~napari_uflow.evaluation.figures.figure_pixels` or a Qt canvas.
    """
    has_drift = report.drift is not None and bool(report.drift.images)
    n = 2 + has_drift + (report.sensitivity is not None)
    size = (4.4, 4.2 * n) if upright else (5.5 * n, 5.2)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(n, 1) if upright else figure.subplots(1, n))
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", color=TEXT_COLOUR, parse_math=False)
    _false_alarms(panels[0], report)
    _tails(panels[1], report)
    if report.drift is not None and has_drift:
        _drift(panels[2], report.drift)
    if report.sensitivity is not None:
        _detection(panels[-1], report.sensitivity)
    for axes in panels:
        axes.title.set(fontsize=10.5, color=TEXT_COLOUR)
        axes.tick_params(colors=TEXT_COLOUR, labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            fontsize=8.5, labelcolor=TEXT_COLOUR, loc="upper left", facecolor="white", edgecolor="none", framealpha=1
        )
    return figure


def _false_alarms(axes: Axes, report: TrustReport) -> None:
    accepted = np.array(EPSILONS)
    lowest = accepted[0] / 4
    axes.plot([lowest, 20], [lowest, 20], color=QUIET_COLOUR, linewidth=1, label="accepted = observed")
    if not report.is_guaranteed(accepted[0]):
        limit = 1 / (report.n_specimens + 1) if report.n_specimens >= 2 else 20
        text = f"not guaranteed: {counted(report.n_specimens, 'held-out specimen')}"
        axes.axvspan(lowest, limit, color="#dfe3e7", label=text)
    left_out = f" ({report.n_of_training} of the training left out)" if report.n_of_training else ""
    series = [
        ("held-out specimens, tails alone", report.nominal, "#9aa3ad", "s", "--"),
        ("held-out specimens, as guaranteed", report.held_out, "#0b6fa4", "o", "-"),
        (counted(report.n_new, "new normal image") + left_out, report.new, FOUND_HEADING, "D", "-"),
    ]
    for name, values, colour, marker, line in series:
        if len(values):
            shown = np.maximum(values, lowest * 1.15)
            axes.plot(accepted, shown, line, color=colour, marker=marker, markersize=5, linewidth=1.4, label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(lowest, 20),
        ylim=(lowest, 100),
        title="False alarms per normal image",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("accepted", color=TEXT_COLOUR)
    axes.set_ylabel(f"observed (none: at {lowest:g})", color=TEXT_COLOUR)


def _tails(axes: Axes, report: TrustReport) -> None:
    expected = -np.array(QQ_LEVELS)
    axes.plot([0, 5], [0, 5], color=QUIET_COLOUR, linewidth=1, label="expected = observed")
    for i, (name, row) in enumerate(zip(report.map_names, report.observed, strict=False)):
        known = np.isfinite(row)
        colour = _COLOURS[i % len(_COLOURS)]
        axes.plot(expected[known], -np.array(row)[known], marker=".", linewidth=1.2, color=colour, label=name)
    if not report.observed:
        axes.text(2.5, 2.5, "needs two or more held-out specimens", ha="center", color=QUIET_COLOUR)
    axes.set(xlim=(0, 5), ylim=(0, 6), title="Tails: one position in 10 to the x has this score")
    axes.set_xlabel("expected x", color=TEXT_COLOUR)
    axes.set_ylabel("observed x (above the line: conservative)", color=TEXT_COLOUR)


def _drift(axes: Axes, drift: DriftState) -> None:
    """Draw the evidence after each new specimen, and the limit at which drift is reported."""
    axes.axhline(LOG10_WARNING, color="#c23b5a", linewidth=1, linestyle="--", label="drift is reported (100 to 1)")
    evidence = np.array([0.0, *drift.log10_evidence])
    axes.plot(np.arange(len(evidence)), evidence, color="#0b6fa4", marker=".", linewidth=1.4, label="evidence of drift")
    if drift.since:
        at = drift.images.index(drift.since) + 1
        axes.axvline(at, color=QUIET_COLOUR, linewidth=1, linestyle=":", label="most probable change")
    axes.set(ylim=(min(-1.0, evidence.min()) - 0.1, max(3.5, evidence.max() + 1.5)), title="Drift of new images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"new specimens, compared with {drift.n_held_out} held-out ones", color=TEXT_COLOUR)
    axes.set_ylabel("log10 of the evidence", color=TEXT_COLOUR)


def _detection(axes: Axes, sensitivity: Sensitivity) -> None:
    """Draw the probability of detection by size, with a90 and a line to a90/95, and the outcomes above and below."""
    axes.axhline(0.9, color=QUIET_COLOUR, linewidth=1, linestyle=":")
    for i, curve in enumerate(sensitivity.curves):
        is_all = curve.kind == ALL_KINDS
        colour = TEXT_COLOUR if is_all else _COLOURS[(i - 1) % len(_COLOURS)]
        sizes = np.geomspace(curve.smallest, curve.largest, 100)
        name = f"{curve.kind}, {curve.n_found} of {curve.n}"
        if curve.contrast is not None:
            name += f" (at {100 * curve.contrast:.0f} % contrast)"
        axes.plot(sizes, curve.pod(sizes), "--" if is_all else "-", color=colour, linewidth=1.4, label=name)
        if curve.a90 is not None:
            limit = curve.largest if curve.a90_95 is None else curve.a90_95
            axes.plot([curve.a90, limit], [0.9, 0.9], color=colour, linewidth=2.5, alpha=0.5)
            axes.plot(curve.a90, 0.9, "o", color=colour, markersize=5)
    for is_found, height in ((True, 1.04), (False, -0.04)):
        sizes_at = [record.size_px for record in sensitivity.records if record.is_found == is_found]
        axes.plot(sizes_at, np.full(len(sizes_at), height), "|", color=QUIET_COLOUR, markersize=6)
    accepted = counted(sensitivity.false_alarms, "accepted false alarm")
    axes.set(xscale="log", ylim=(-0.08, 1.15 + 0.125 * len(sensitivity.curves)), yticks=[0, 0.25, 0.5, 0.75, 0.9, 1])
    axes.set_title(f"Planted defects found at {accepted}")
    octaves = np.round(np.log2([record.size_px for record in sensitivity.records]))
    axes.set_xticks(2.0 ** np.arange(octaves.min(), octaves.max() + 1))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("size, pixels (dot: found in 90 %; bar: to 95 % limit)", color=TEXT_COLOUR)
    axes.set_ylabel("probability of detection", color=TEXT_COLOUR)
