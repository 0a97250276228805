"""The region test as it is used: several maps of evidence, tails and promise from held-out fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_uflow.nfa.calibration import MapCalibration, TooFewPositionsError
from napari_uflow.nfa.conformal import HIGHEST, ConformalOffset, HeldOutField
from napari_uflow.nfa.counts import log10_tests_for_any_size
from napari_uflow.nfa.segment import LevelRegions, combine_levels, count_thresholds, significant_regions_in_pieces
from napari_uflow.progress import Pieces, Progress, Steps, at_once, or_stop

__all__ = ["Calibration", "CalibrationPicture", "QQ_LEVELS"]

# Fields are held out of the tails that test them in this many groups.
_N_FOLDS = 5
QQ_LEVELS = tuple(round(-0.25 * i, 2) for i in range(1, 21))
"""Expected log10 probabilities at which the observed ones are kept."""

Maps = Sequence[NDArray[np.floating]]


@dataclass(frozen=True, eq=False)
class CalibrationPicture:
    """Maps of evidence of one normal picture.

    Attributes
    ----------
    field : str
        The independent field that it comes from.
    maps : tuple of (M_l, N_l) arrays, float
        In the order of `strides`; NaN where not measured or not normal.
    """

    field: str
    maps: tuple[NDArray[np.floating], ...]


@dataclass(frozen=True)
class Calibration:
    """What turns maps of evidence into regions with a number of false alarms.

    Attributes
    ----------
    strides : tuple of int
        Picture pixels per position of each map.
    maps : tuple of MapCalibration
        One for each map.
    offset : ConformalOffset
        What nominal numbers are worth on the held-out fields.
    observed : tuple of tuple of float
        For each map: the part of the held-out positions (log10) whose probability is at or below each of `QQ_LEVELS`,
        each field tested with tails fitted to the others; -inf where there is none. Empty for a single field.
    n_pixels : float
        Mean size of the held-out pictures, in pixels.
    """

    strides: tuple[int, ...]
    maps: tuple[MapCalibration, ...]
    offset: ConformalOffset = ConformalOffset()
    observed: tuple[tuple[float, ...], ...] = ()
    n_pixels: float = 0.0

    @classmethod
    def fit_steps(cls, pictures: Sequence[CalibrationPicture], strides: Sequence[int]) -> Steps[Self]:
        """Fit to normal pictures that were held out of training, step by step.

        Every field is tested with tails fitted to other fields; its regions are what the promise rests on. The tails
        that are kept are fitted to all of them.

        Parameters
        ----------
        pictures : sequence of CalibrationPicture
            At least one.
        strides : sequence of int
            Picture pixels per position of each map.

        Raises
        ------
        ValueError
            If a map has fewer than 50 values in all.
        """
        maps = fit_maps(pictures)
        sizes = [picture.maps[0].size * strides[0] ** 2 for picture in pictures]
        full = cls(tuple(strides), maps, n_pixels=float(np.mean(sizes)))
        names = sorted({picture.field for picture in pictures})
        folds = [names[i :: min(_N_FOLDS, len(names))] for i in range(min(_N_FOLDS, len(names)))]
        if len(names) < 2:
            return full
        tested: list[HeldOutField] = []
        below = np.zeros((len(strides), len(QQ_LEVELS)))
        n_positions = np.zeros(len(strides))
        for done, fold in enumerate(folds):
            yield from or_stop(Progress("Testing the held-out fields", done, len(folds)))
            others = [picture for picture in pictures if picture.field not in fold]
            try:
                without = replace(full, maps=fit_maps(others, maps))
            except TooFewPositionsError:  # one field alone holds nearly all positions
                return full
            for name in fold:
                events = []
                for picture in (picture for picture in pictures if picture.field == name):
                    log10_p = without.log10_p(picture.maps)
                    for i, (p, values) in enumerate(zip(log10_p, picture.maps, strict=True)):
                        known = p[np.isfinite(values)]
                        n_positions[i] += known.size
                        below[i] += [np.count_nonzero(known <= level) for level in QQ_LEVELS]
                    events.append(tuple(count_thresholds(without._coarse_map(picture.maps, log10_p), HIGHEST)))
                tested.append(HeldOutField(name, tuple(events)))
        yield from or_stop(Progress("Testing the held-out fields", len(folds), len(folds)))
        with np.errstate(divide="ignore"):
            observed = np.log10(below / np.maximum(n_positions, 1)[:, None])
        return replace(
            full,
            offset=ConformalOffset(tuple(tested)),
            observed=tuple(tuple(map(float, row)) for row in observed),
        )

    def log10_p(self, maps: Maps) -> list[NDArray[np.float64]]:
        """Return log10 of the probability of each value where normal; 0 where not measured."""
        return [calibration.log10_tail(values) for calibration, values in zip(self.maps, maps, strict=True)]

    def nominal_regions(self, log10_p: Sequence[NDArray[np.float64]], maps: Maps) -> list[LevelRegions]:
        """Return the regions of each map with their nominal log10 NFA; the price counts all maps that are tested."""
        return [at_once(self._level(*each)) for each in zip(log10_p, maps, self.maps, strict=True)]

    def _level(
        self, log10_p: NDArray[np.float64], values: NDArray[np.floating], calibration: MapCalibration
    ) -> Pieces[LevelRegions]:
        n_positions = max(1, int(np.count_nonzero(np.isfinite(values))))
        price = log10_tests_for_any_size(n_positions, len(self.maps))
        return significant_regions_in_pieces(log10_p, price, calibration.correlation_area)

    def regions(self, maps: Maps, *, promised: bool = True) -> list[LevelRegions]:
        """Return the regions of each map of a picture.

        Parameters
        ----------
        maps : sequence of (M_l, N_l) arrays, float
            As for :meth:`fit_steps`; NaN where not measured.
        promised : bool
            True for the promised number of false alarms, False for the nominal one.
        """
        return at_once(self.regions_in_pieces(maps, promised=promised))

    def regions_in_pieces(self, maps: Maps, *, promised: bool = True) -> Pieces[list[LevelRegions]]:
        """Return the regions as :meth:`regions` does, with pauses."""
        levels = []
        for values, calibration in zip(maps, self.maps, strict=True):
            log10_p = calibration.log10_tail(values)
            yield
            level = yield from self._level(log10_p, values, calibration)
            del log10_p
            if promised:
                level = LevelRegions(level.labels, self.offset.promised(level.log10_nfa))
            levels.append(level)
            yield
        return levels

    def _coarse_map(self, maps: Maps, log10_p: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
        """Nominal log10 NFA on the grid of the finest level: the parts are those of the picture, at less cost."""
        finest = min(self.strides)
        shape = next(m.shape for m, stride in zip(maps, self.strides, strict=True) if stride == finest)
        steps = [stride // finest for stride in self.strides]
        return combine_levels(self.nominal_regions(log10_p, maps), steps, shape, background=HIGHEST + 1)

    def unlike(self, maps: Maps) -> float:
        """Return the probability (two-sided, at least one map) that a normal picture is as unlike the held-out ones.

        It looks at the medians of the maps, which the region test subtracts. 1 where it cannot be told.
        """
        p = [calibration.unlike(values) for calibration, values in zip(self.maps, maps, strict=True)]
        return min(1.0, len(p) * min(p, default=1.0))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "strides": list(self.strides),
            "maps": [calibration.to_dict() for calibration in self.maps],
            "fields": self.offset.to_list(),
            "observed": [list(row) for row in self.observed],
            "n_pixels": self.n_pixels,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a calibration from what :meth:`to_dict` returned, or from that with None for what is not finite."""
        return cls(
            tuple(values["strides"]),
            tuple(MapCalibration.from_dict(item) for item in values["maps"]),
            ConformalOffset.from_list(values["fields"]),
            tuple(tuple(-np.inf if x is None else x for x in row) for row in values["observed"]),
            float(values["n_pixels"]),
        )


def fit_maps(
    pictures: Sequence[CalibrationPicture], like: Sequence[MapCalibration] | None = None
) -> tuple[MapCalibration, ...]:
    """Fit each map's calibration to pictures; `like` are fits to more of them, whose kind of tail is taken.

    Raises
    ------
    ValueError
        If a map has fewer than 50 values in all.
    """
    fields = [picture.field for picture in pictures]
    by_map = zip(*(picture.maps for picture in pictures), strict=True)
    return tuple(MapCalibration.fit(maps, fields, None if like is None else like[i]) for i, maps in enumerate(by_map))
