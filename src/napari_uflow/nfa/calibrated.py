"""Calibrated region test: several score maps, with tails and guarantee from held-out specimens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_uflow.nfa.calibration import MapCalibration, TooFewPositionsError, profile_of
from napari_uflow.nfa.conformal import HIGHEST, ConformalOffset, HeldOutSpecimen
from napari_uflow.nfa.counts import log10_tests_for_any_size
from napari_uflow.nfa.drawing import combine_levels
from napari_uflow.nfa.labelling import count_thresholds
from napari_uflow.nfa.segment import LevelRegions, RegionTest
from napari_uflow.progress import Progress, Steps, or_stop

__all__ = ["QQ_LEVELS", "Calibration", "CalibrationImage", "needs_median"]

# Groups of specimens; each group is tested with tails fitted to the others.
_N_FOLDS = 10
# Specimens that show how much normal images differ as a whole, and the largest difference that needs no subtraction.
_FEWEST_COMPARED = 3
_LARGEST_VARIATION = 0.3
QQ_LEVELS = tuple(round(-0.25 * i, 2) for i in range(1, 21))
"""Expected log10 probabilities at which the observed ones are stored."""

Maps = Sequence[NDArray[np.floating]]


@dataclass(frozen=True, eq=False)
class CalibrationImage:
    """Score maps of one normal image.

    Attributes
    ----------
    specimen : str
        Independent specimen of the image.
    condition : str
        Kind of normal images that it belongs to, such as a stain.
    maps : tuple of (M_l, N_l) arrays, float
        Score maps in the order of the strides; NaN in positions that were not measured or are not normal.
    """

    specimen: str
    maps: tuple[NDArray[np.floating], ...]
    condition: str = ""


@dataclass(frozen=True)
class Calibration:
    """Calibration of the region test: from score maps to regions with a number of false alarms.

    Attributes
    ----------
    strides : tuple of int
        Image pixels per position of each map.
    maps : tuple of MapCalibration
        Calibration of each map.
    offset : ConformalOffset
        Map from nominal to guaranteed numbers of false alarms.
    observed : tuple of tuple of float
        For each map and each of `QQ_LEVELS`: log10 of the fraction of held-out positions whose log10 probability is at
        or below it, each specimen tested with tails fitted to the others; -inf for a fraction of 0. Empty for a single
        specimen.
    n_pixels : float
        Mean measured normal area of the held-out images, in pixels that the network saw.
    conditions : mapping of str to Calibration
        Calibrations of the images of each condition alone, if conditions are told apart; the other attributes are those
        of all together.
    """

    strides: tuple[int, ...]
    maps: tuple[MapCalibration, ...]
    offset: ConformalOffset = ConformalOffset()
    observed: tuple[tuple[float, ...], ...] = ()
    n_pixels: float = 0.0
    conditions: Mapping[str, Calibration] = field(default_factory=dict)

    @classmethod
    def fit_steps(
        cls, images: Sequence[CalibrationImage], strides: Sequence[int], *, subtracts_median: bool | None = True
    ) -> Steps[Self]:
        """Fit to normal images held out of training, step by step; of several conditions to each of them, too.

        Every specimen is tested with tails fitted to specimens of other groups; its regions determine the guarantee.
        The stored tails are the strictest of all groups: a new specimen is tested at least as strictly as each of them.

        Parameters
        ----------
        images : sequence of CalibrationImage
            Held-out images, at least one.
        strides : sequence of int
            Image pixels per position of each map.
        subtracts_median : bool or None
            Subtract the median of each image from its maps; None decides it, see :func:`needs_median`.

        Raises
        ------
        ValueError
            If a map has fewer than 50 values in all.
        """
        of_all = yield from cls._fit_steps(images, strides, subtracts_median=subtracts_median)
        names = sorted({image.condition for image in images})
        if len(names) == 1:
            return replace(of_all, conditions={name: of_all for name in names if name})
        conditions = {}
        for name in names:
            own = [image for image in images if image.condition == name]
            with suppress(TooFewPositionsError):
                conditions[name] = yield from cls._fit_steps(own, strides, subtracts_median=subtracts_median)
        return replace(of_all, conditions=conditions)

    @classmethod
    def _fit_steps(
        cls, images: Sequence[CalibrationImage], strides: Sequence[int], *, subtracts_median: bool | None
    ) -> Steps[Self]:
        maps = fit_maps(images, subtracts_median=bool(subtracts_median))
        if subtracts_median is None and any(needs_median(fitted) for fitted in maps):
            maps = fit_maps(images, subtracts_median=True)
        full = cls(tuple(strides), maps)
        names = sorted({image.specimen for image in images})
        areas = {name: [full.measured_area(im.maps) for im in images if im.specimen == name] for name in names}
        full = replace(full, n_pixels=float(np.mean([np.mean(of_specimen) for of_specimen in areas.values()])))
        folds = [names[i :: min(_N_FOLDS, len(names))] for i in range(min(_N_FOLDS, len(names)))]
        if len(names) < 2:
            return full
        tested: list[HeldOutSpecimen] = []
        fitted = [full.maps]
        below = np.zeros((len(strides), len(QQ_LEVELS)))
        n_positions = np.zeros(len(strides))
        for done, fold in enumerate(folds):
            yield from or_stop(Progress("Testing the held-out specimens", done, len(folds)))
            others = [image for image in images if image.specimen not in fold]
            try:
                without = replace(full, maps=fit_maps(others, maps))
            except TooFewPositionsError:  # one specimen has nearly all positions
                return full
            fitted.append(without.maps)
            for name in fold:
                events = []
                for image in (image for image in images if image.specimen == name):
                    log10_p = without.log10_p(image.maps)
                    for i, (p, values) in enumerate(zip(log10_p, image.maps, strict=True)):
                        known = p[np.isfinite(values)]
                        n_positions[i] += known.size
                        below[i] += [np.count_nonzero(known <= level) for level in QQ_LEVELS]
                    events.append(tuple(count_thresholds(without._coarse_map(image.maps, log10_p), HIGHEST)))
                tested.append(HeldOutSpecimen(name, tuple(events), tuple(areas[name])))
        yield from or_stop(Progress("Testing the held-out specimens", len(folds), len(folds)))
        with np.errstate(divide="ignore"):
            observed = np.log10(below / np.maximum(n_positions, 1)[:, None])
        return replace(
            full,
            maps=tuple(MapCalibration.strictest(of_map) for of_map in zip(*fitted, strict=True)),
            offset=ConformalOffset(tuple(tested)),
            observed=tuple(tuple(map(float, row)) for row in observed),
        )

    def without_guarantee(self) -> Self:
        """Return the calibration of images that were trained on: tails, and nothing counted on held-out specimens."""
        conditions = {name: of.without_guarantee() for name, of in self.conditions.items()}
        return replace(self, offset=ConformalOffset(), observed=(), conditions=conditions)

    def log10_p(self, maps: Maps) -> list[NDArray[np.float64]]:
        """Return log10 of the probability that a normal position reaches each value; 0 if it was not measured."""
        return [calibration.log10_tail(values) for calibration, values in zip(self.maps, maps, strict=True)]

    @property
    def area(self) -> float:
        """Calibrated area in pixels that the network saw: mean measured area of the held-out images; 0 if unknown."""
        return self.offset.area or self.n_pixels

    def measured_area(self, maps: Maps) -> float:
        """Return the measured area of an image, in pixels that the network saw: positions without NaN."""
        values, stride = min(zip(maps, self.strides, strict=True), key=lambda pair: pair[1])
        return float(np.count_nonzero(np.isfinite(values))) * stride**2

    def n_areas(self, maps: Maps) -> float:
        """Return the calibrated areas in an image that share its accepted false alarms, at least 1.

        A window of one calibrated area, at a random place of a large normal image, is like a held-out image. It shows
        each false alarm of an image of k areas with a probability of 1 / k: the image has at most k times as many.
        A smaller image counts as one area: the chance of any false alarm does not decrease with the area if an image
        has many of them or none.
        """
        return max(1.0, round(self.measured_area(maps) / self.area, 9)) if self.area else 1.0

    def is_larger(self, maps: Maps) -> bool:
        """Return whether an image is larger than the calibrated area and than every held-out image."""
        largest = max(self.offset.largest_area, self.area)
        return self.area > 0 and self.measured_area(maps) > largest * (1 + 1e-9)

    def nominal_regions(self, log10_p: Sequence[NDArray[np.float64]], maps: Maps) -> list[LevelRegions]:
        """Return the regions of each map with their nominal log10 NFA per calibrated area; all maps share the tests."""
        each = zip(log10_p, maps, self.maps, self.strides, strict=True)
        return [self._test(p, values, of.correlation_area, stride).run() for p, values, of, stride in each]

    def _test(
        self, log10_p: NDArray[np.float64], values: NDArray[np.floating], correlation_area: float, stride: int
    ) -> RegionTest:
        n_positions = round(self.area / stride**2)
        # In older models the positions of each held-out image were its tests, and its area is not known.
        is_older = self.offset.n_specimens > 0 and not self.offset.area
        if is_older or not n_positions:
            own = int(np.count_nonzero(np.isfinite(values)))
            n_positions = min(own, n_positions or own)
        return RegionTest(log10_p, log10_tests_for_any_size(max(1, n_positions), len(self.maps)), correlation_area)

    def tests(self, maps: Maps) -> Iterator[RegionTest]:
        """Yield the test of each map, made on demand: each needs many times its map's memory.

        Their log10 NFA is nominal, and per calibrated area.
        """
        for values, calibration, stride in zip(maps, self.maps, self.strides, strict=True):
            yield self._test(calibration.log10_tail(values), values, calibration.correlation_area, stride)

    def per_image(self, levels: Iterable[LevelRegions], maps: Maps) -> list[LevelRegions]:
        """Return regions with the log10 NFA per image in place of that per calibrated area."""
        log10_n_areas = math.log10(self.n_areas(maps))
        return [LevelRegions(level.labels, level.log10_nfa + log10_n_areas) for level in levels]

    def guaranteed(self, levels: Iterable[LevelRegions]) -> list[LevelRegions]:
        """Return regions with the guaranteed log10 NFA in place of the nominal one, both per calibrated area."""
        return [LevelRegions(level.labels, self.offset.guaranteed(level.log10_nfa)) for level in levels]

    def regions(self, maps: Maps, *, guaranteed: bool = True) -> list[LevelRegions]:
        """Return the regions of each map of an image.

        Parameters
        ----------
        maps : sequence of (M_l, N_l) arrays, float
            As for :meth:`fit_steps`; NaN in positions that were not measured.
        guaranteed : bool
            True for the guaranteed number of false alarms, False for the nominal one.
        """
        levels = [test.run() for test in self.tests(maps)]
        return self.per_image(self.guaranteed(levels) if guaranteed else levels, maps)

    def _coarse_map(self, maps: Maps, log10_p: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
        """Return the nominal log10 NFA on the finest level's grid; its parts are those of the image, at less cost."""
        finest = min(self.strides)
        shape = next(m.shape for m, stride in zip(maps, self.strides, strict=True) if stride == finest)
        steps = [stride // finest for stride in self.strides]
        return combine_levels(self.nominal_regions(log10_p, maps), steps, shape, background=HIGHEST + 1)

    def median_p_value(self, maps: Maps) -> float:
        """Return the probability that the medians of a normal image differ as much from those of the held-out ones.

        The region test subtracts the medians. The probability is two-sided and corrected for the number of maps
        (Bonferroni); 1 if it is unknown.
        """
        p = [calibration.median_p_value(values) for calibration, values in zip(self.maps, maps, strict=True)]
        return min(1.0, len(p) * min(p, default=1.0))

    def profile_of(self, maps: Maps, are_anomalous: Sequence[NDArray[np.bool_]]) -> tuple[float, ...]:
        """Return the statistics of an image as a whole: for each map its median and the extent of its lower part.

        Parameters
        ----------
        maps : sequence of (M_l, N_l) arrays, float
            As for :meth:`fit_steps`; NaN in positions that were not measured.
        are_anomalous : sequence of (M_l, N_l) arrays, bool
            Positions in anomalous regions.
        """
        profiles = [profile_of(values, mask) for values, mask in zip(maps, are_anomalous, strict=True)]
        return tuple(statistic for profile in profiles for statistic in profile)

    @property
    def held_out_profiles(self) -> tuple[tuple[float, ...], ...]:
        """Each statistic of :meth:`profile_of` in the held-out specimens; empty ones in models of earlier versions."""
        return tuple(
            tuple(profile[i] for profile in calibration.profiles) for calibration in self.maps for i in range(2)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        conditions = {name: of.to_dict() for name, of in self.conditions.items()}
        return {
            "strides": list(self.strides),
            "maps": [calibration.to_dict() for calibration in self.maps],
            "specimens": self.offset.to_list(),
            "observed": [list(row) for row in self.observed],
            "n_pixels": self.n_pixels,
        } | ({"conditions": conditions} if conditions else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the calibration from the values of :meth:`to_dict`, with None for values that are not finite.

        Raises
        ------
        ValueError
            If they are none of a calibration.
        """
        found = cls(
            tuple(map(int, values["strides"])),
            tuple(MapCalibration.from_dict(item) for item in values["maps"]),
            ConformalOffset.from_list(values["specimens"]),
            tuple(tuple(-np.inf if x is None else float(x) for x in row) for row in values["observed"]),
            float(values["n_pixels"]),
            {str(name): cls.from_dict(of) for name, of in values.get("conditions", {}).items()},
        )
        if any(of.conditions or of.strides != found.strides for of in found.conditions.values()):
            raise ValueError("the conditions of its calibration are none that a training counts")
        has_observed = len(found.observed) in (0, len(found.maps))
        if not has_observed or any(len(row) != len(QQ_LEVELS) or not max(row) <= 0 for row in found.observed):
            raise ValueError("the observed probabilities of its calibration are none that a training counts")
        if len(found.maps) != len(found.strides) or not 0 <= found.n_pixels < np.inf:
            raise ValueError("the maps of its calibration do not belong together")
        return found


def needs_median(fitted: MapCalibration) -> bool:
    """Return True if the median of an image must be subtracted from its map.

    Parameters
    ----------
    fitted : MapCalibration
        Fitted to the map without subtraction.

    Returns
    -------
    bool
        True if normal images as a whole differ too much, by more than 0.3 of the distance from the typical position to
        the rarest of a hundred (standard deviation of their medians), or if fewer than three specimens show how much
        they differ. Otherwise an object that fills half of a small image would be subtracted with its median.
    """
    width = fitted.tail.value_at(-2.0) - fitted.tail.value_at(-0.30103)
    return fitted.n_specimens < _FEWEST_COMPARED or fitted.median_sd > _LARGEST_VARIATION * width


def fit_maps(
    images: Sequence[CalibrationImage],
    like: Sequence[MapCalibration] | None = None,
    *,
    subtracts_median: bool = True,
) -> tuple[MapCalibration, ...]:
    """Fit the calibration of each map to images.

    Parameters
    ----------
    images : sequence of CalibrationImage
        Images with the same number of maps.
    like : sequence of MapCalibration, optional
        Fits to more images, whose kind of tail is used, and the median subtracted or not.
    subtracts_median : bool
        Without `like`: subtract the median of each image.

    Raises
    ------
    ValueError
        If a map has fewer than 50 values in all.
    """
    specimens = [image.specimen for image in images]
    by_map = zip(*(image.maps for image in images), strict=True)
    if like is None:
        return tuple(MapCalibration.fit(maps, specimens, subtracts_median=subtracts_median) for maps in by_map)
    return tuple(
        MapCalibration.fit(maps, specimens, other, subtracts_median=other.subtracts_median)
        for maps, other in zip(by_map, like, strict=True)
    )
