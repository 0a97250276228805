"""Results of a batch: per file, collected, and the summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.detection.result import Detection
from napari_uflow.evaluation.figures import save_figure
from napari_uflow.evaluation.overview import OverviewRow, overview
from napari_uflow.store.files import atomic_path
from napari_uflow.store.regions import write_regions
from napari_uflow.store.table import write_rows

__all__ = ["N_OVERVIEW", "BatchSummary", "Collected", "FileResult"]

N_OVERVIEW = 8
"""Planes of the overview figure: those with the lowest NFA."""

_COLUMNS = ("file", "outcome", "n_planes", "n_anomalous_planes", "n_regions", "lowest_log10_nfa", "reason")


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """Summary of a batch.

    Attributes
    ----------
    done : tuple of Path
        Processed files.
    failed : tuple of (Path, str)
        Failed files, each with the reason.
    n_regions : int
        Anomalous regions in all files.
    n_regions_by_file : tuple of int
        Anomalous regions in each file of `done`.
    n_anomalous_planes, n_planes : int
        Planes with at least one region, and planes in all.
    was_stopped : bool
        True if the user stopped the batch.
    guarantees : tuple of Guarantee
        Distinct guarantees of the planes; stacks of different sizes differ if the planes share the false alarms.
    left_out : tuple of Path
        Files that were not processed because the batch was stopped.
    """

    done: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    n_regions: int
    n_regions_by_file: tuple[int, ...]
    n_anomalous_planes: int
    n_planes: int
    was_stopped: bool
    guarantees: tuple[Guarantee, ...]
    left_out: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class FileResult:
    """Result of one file, small enough to be sent from another machine.

    Attributes
    ----------
    path : Path
        File.
    tables : tuple of Detection
        One per plane, with its regions but without its maps; empty for a failed file.
    rows : tuple of (float, OverviewRow)
        Lowest log10 NFA and overview row of the most anomalous planes.
    lowest_log10_nfa : float
        Lowest log10 NFA of all planes; NaN for a failed file.
    reason : str
        Cause of the failure; "" for a processed file.
    """

    path: Path
    tables: tuple[Detection, ...] = ()
    rows: tuple[tuple[float, OverviewRow], ...] = ()
    lowest_log10_nfa: float = math.nan
    reason: str = ""


class Collected:
    """Results of the files so far, in any order, and the tables and the figure written of all of them."""

    def __init__(self) -> None:
        self._results: list[FileResult] = []
        self._rows: list[tuple[float, OverviewRow]] = []

    def add(self, result: FileResult) -> None:
        """Add the result of a file; only the most anomalous planes are kept for the overview."""
        self._rows = sorted([*self._rows, *result.rows], key=lambda row: row[0])[:N_OVERVIEW]
        self._results.append(replace(result, rows=()))

    def write(self, output: Path, *, was_stopped: bool, order: Sequence[Path]) -> BatchSummary:
        """Write ``summary.csv``, ``regions.csv`` and ``overview.png``.

        Parameters
        ----------
        output : Path
            Existing folder.
        was_stopped : bool
            True if the user stopped the batch.
        order : sequence of Path
            All files in the order of the tables; files without a result were left out.
        """
        place = {path: i for i, path in enumerate(order)}
        results = sorted(self._results, key=lambda result: place[result.path])
        added = {result.path for result in results}
        left_out = [path for path in order if path not in added]
        done = [result for result in results if not result.reason]
        if results:
            rows = [_summary_row(result) for result in results]
            rows += [(path.name, "not processed", "", "", "", "", "the batch was stopped") for path in left_out]
            _write_summary(output / "summary.csv", rows)
        tables = [table for result in done for table in result.tables]
        if done:
            write_regions(output / "regions.csv", tables)
            limits = tables[0].config.heatmap_limits
            figure = overview([row for _, row in self._rows], score_limits=limits, title="Most anomalous images first")
            save_figure(figure, output / "overview.png")
        n_regions = tuple(sum(len(table.regions) for table in result.tables) for result in done)
        return BatchSummary(
            done=tuple(result.path for result in done),
            failed=tuple((result.path, result.reason) for result in results if result.reason),
            n_regions=sum(n_regions),
            n_regions_by_file=n_regions,
            n_anomalous_planes=sum(len(table.regions) > 0 for table in tables),
            n_planes=len(tables),
            was_stopped=was_stopped,
            guarantees=tuple(dict.fromkeys(table.guarantee for table in tables)),
            left_out=tuple(left_out),
        )


def _summary_row(result: FileResult) -> tuple[Any, ...]:
    if result.reason:
        return (result.path.name, "failed", "", "", "", "", result.reason)
    counts = [len(table.regions) for table in result.tables]
    n_anomalous = sum(count > 0 for count in counts)
    return (result.path.name, "done", len(counts), n_anomalous, sum(counts), f"{result.lowest_log10_nfa:.6g}", "")


def _write_summary(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        write_rows(file, [_COLUMNS, *rows])
