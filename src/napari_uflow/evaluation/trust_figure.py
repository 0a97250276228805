"""Figure of a trust report: observed false alarms and tails."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from napari_uflow.evaluation.figures import DPI, FOUND_HEADING, QUIET_COLOUR, TEXT_COLOUR
from napari_uflow.evaluation.trust import EPSILONS, TrustReport
from napari_uflow.nfa.calibrated import QQ_LEVELS
from napari_uflow.wording import counted

__all__ = ["trust_figure"]


def trust_figure(report: TrustReport, *, title: str = "", upright: bool = False) -> Figure:
    """Draw a trust report: accepted and observed false alarms, and the tails of every map.

    Parameters
    ----------
    report : TrustReport
        Report to draw.
    title : str
        Title, such as the name of the model.
    upright : bool
        True stacks the two plots, for a narrow panel; False draws them side by side.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with an Agg canvas, for :func:`~napari_uflow.evaluation.figures.save_figure`,
        :func:`~napari_uflow.evaluation.figures.figure_pixels` or a Qt canvas.
    """
    size = (4.4, 8.4) if upright else (11.0, 5.2)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    alarms, tails = figure.subplots(2, 1) if upright else figure.subplots(1, 2)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", color=TEXT_COLOUR, parse_math=False)
    _false_alarms(alarms, report)
    _tails(tails, report)
    for axes in (alarms, tails):
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
    series = [
        ("held-out specimens, tails alone", report.nominal, "#9aa3ad", "s", "--"),
        ("held-out specimens, as guaranteed", report.held_out, "#0b6fa4", "o", "-"),
        (counted(report.n_new, "new normal image"), report.new, FOUND_HEADING, "D", "-"),
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
        colour = ("#0b6fa4", "#19a3a3", "#7a5cc0", "#d96b00", "#c23b5a", "#6b8e23")[i % 6]
        axes.plot(expected[known], -np.array(row)[known], marker=".", linewidth=1.2, color=colour, label=name)
    if not report.observed:
        axes.text(2.5, 2.5, "needs two or more held-out specimens", ha="center", color=QUIET_COLOUR)
    axes.set(xlim=(0, 5), ylim=(0, 6), title="Tails: one position in 10 to the x has this score")
    axes.set_xlabel("expected x", color=TEXT_COLOUR)
    axes.set_ylabel("observed x (above the line: conservative)", color=TEXT_COLOUR)
