"""Table of the anomalous regions of one plane."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow.system.scratch import release_pages, strips

__all__ = ["RegionMeasure", "RegionTable"]


@dataclass(frozen=True, eq=False, kw_only=True)
class RegionTable:
    """Anomalous regions of one plane, the most significant first; every array has one entry per region.

    Attributes
    ----------
    label : (n,) array, int32
        Label of the region in the labels map, 1 to n.
    log10_nfa : (n,) array, float64
        log10 of the number of regions at least as anomalous that are expected in a normal image.
    area_px : (n,) array, int64
        Area in pixels, 1 or more.
    area : (n,) array, float64
        Area in the squared unit of the pixel size; NaN without a pixel size.
    centroid_row, centroid_col : (n,) array, float64
        Centre of the region, in pixels; the centre of the first pixel is 0.
    first_row, first_col, stop_row, stop_col : (n,) array, int64
        Bounding box, half-open, in pixels.
    peak_score, mean_score : (n,) array, float32
        Highest and mean value of the heatmap in the region.
    is_edited : (n,) array, int8
        1 if the region was painted, or a part of it erased, by hand: no detection found it like that; otherwise 0.
    """

    label: NDArray[np.int32]
    log10_nfa: NDArray[np.float64]
    area_px: NDArray[np.int64]
    area: NDArray[np.float64]
    centroid_row: NDArray[np.float64]
    centroid_col: NDArray[np.float64]
    first_row: NDArray[np.int64]
    first_col: NDArray[np.int64]
    stop_row: NDArray[np.int64]
    stop_col: NDArray[np.int64]
    peak_score: NDArray[np.float32]
    mean_score: NDArray[np.float32]
    is_edited: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.label)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, in order."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def rows(self) -> Iterator[dict[str, int | float]]:
        """Yield each region as plain numbers by name."""
        columns = self.columns()
        for i in range(len(self)):
            yield {name: values[i].item() for name, values in columns.items()}

    @classmethod
    def measure(
        cls,
        labels: NDArray[np.int32],
        log10_nfa: NDArray[np.float32],
        score: NDArray[np.float32],
        pixel_size: tuple[float, float] | None = None,
    ) -> RegionTable:
        """Measure the regions of a labels map.

        Parameters
        ----------
        labels : (M, N) array, int32
            0 outside, 1 to n without gaps inside the regions.
        log10_nfa, score : (M, N) array, float32
            Maps to measure; NaN is ignored.
        pixel_size : (float, float), optional
            Height and width of a pixel.

        See Also
        --------
        RegionMeasure : The same strip by strip, for large maps.
        """
        measure = RegionMeasure(labels, log10_nfa, score)
        for start, stop in strips(labels.shape):
            measure.put(start, stop)
        return measure.table(pixel_size)


class RegionMeasure:
    """Measurement of the regions of a labels map in strips of rows.

    Parameters
    ----------
    labels, log10_nfa, score
        As in :meth:`RegionTable.measure`.
    """

    def __init__(self, labels: NDArray[np.int32], log10_nfa: NDArray[np.float32], score: NDArray[np.float32]) -> None:
        self._labels, self._log10_nfa, self._score = labels, log10_nfa, score
        n = 0
        for start, stop in strips(labels.shape):
            n = max(n, int(labels[start:stop].max(initial=0)))
            release_pages(labels)
        self._area = np.zeros(n, dtype=np.int64)
        self._lowest = np.full(n, np.inf)
        self._peak, self._sum_scores, self._sum_rows, self._sum_cols = np.zeros((4, n))
        self._first_row, self._first_col = np.full((2, n), np.iinfo(np.int64).max, dtype=np.int64)
        self._stop_row, self._stop_col = np.zeros((2, n), dtype=np.int64)

    def put(self, start: int, stop: int) -> None:
        """Add rows `start` to `stop` - 1, each row once."""
        n = len(self._area)
        rows, cols = np.nonzero(self._labels[start:stop])
        rows += start
        of = self._labels[rows, cols].astype(np.int64) - 1
        scores = np.nan_to_num(self._score[rows, cols].astype(np.float64))
        log10_nfa = np.nan_to_num(self._log10_nfa[rows, cols].astype(np.float64), nan=np.inf)
        self._area += np.bincount(of, minlength=n)
        self._sum_scores += np.bincount(of, scores, minlength=n)
        self._sum_rows += np.bincount(of, rows, minlength=n)
        self._sum_cols += np.bincount(of, cols, minlength=n)
        np.minimum.at(self._lowest, of, log10_nfa)
        np.maximum.at(self._peak, of, scores)
        np.minimum.at(self._first_row, of, rows)
        np.minimum.at(self._first_col, of, cols)
        np.maximum.at(self._stop_row, of, rows + 1)
        np.maximum.at(self._stop_col, of, cols + 1)
        release_pages(self._labels, self._log10_nfa, self._score)

    def table(self, pixel_size: tuple[float, float] | None = None) -> RegionTable:
        """Return the table, once all rows were added."""
        count = np.maximum(self._area, 1)
        pixel_area = pixel_size[0] * pixel_size[1] if pixel_size is not None else np.nan
        return RegionTable(
            label=np.arange(1, len(count) + 1, dtype=np.int32),
            log10_nfa=self._lowest,
            area_px=self._area,
            area=(self._area * pixel_area).astype(np.float64),
            centroid_row=self._sum_rows / count,
            centroid_col=self._sum_cols / count,
            first_row=self._first_row,
            first_col=self._first_col,
            stop_row=self._stop_row,
            stop_col=self._stop_col,
            peak_score=self._peak.astype(np.float32),
            mean_score=(self._sum_scores / count).astype(np.float32),
            is_edited=np.zeros(len(count), dtype=np.int8),
        )
