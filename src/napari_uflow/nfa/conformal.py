"""Conformal guarantee of the number of false alarms on held-out specimens.

The region test gives a *nominal* NFA: correct if the tails fit, the correlation is estimated well, and new images vary
as the held-out ones do. Conformal risk control turns it into a guarantee that requires only that the next specimen is
exchangeable with the held-out ones. Let N_i(t) be the false alarms per image of held-out specimen i if regions of
nominal log10 NFA <= t are reported. With the loss bounded by B, the rule "report below the largest t with

    (sum_i min(N_i(t), B) + B) / (n + 1) <= epsilon"

has an expected loss of at most epsilon in the next specimen, for every distribution and every n (an average over the
draw of the held-out specimens too), if all specimens are scored alike. Here a held-out specimen is scored with tails of
other groups of specimens, and a new one at least as strictly as with any of those tails (cross-validation conformal
risk control): the bound holds for any number of specimens, and however many values are equal. All numbers are per
calibrated area, the mean area of the held-out images; an image with k times that area is held to epsilon / k
(:meth:`~napari_uflow.nfa.calibrated.Calibration.n_areas`), and a held-out one may have up to k B false alarms.

For small epsilon B is 1: the guarantee is then about the probability of any false alarm in an image. For larger epsilon
B is epsilon times sqrt(n + 1), or times 3 if that is more; more false alarms in one image count as B. The smallest
epsilon that n specimens can guarantee is 1 / (n + 1), and fewer than 3 specimens guarantee nothing. Below that epsilon
the nominal law is used, and never a more permissive one.

References
----------
Angelopoulos, A. N., Bates, S., Fisch, A., Lei, L., Schuster, T. (2022). Conformal risk control. arXiv:2208.02814.
doi:10.48550/arXiv.2208.02814 (Theorem 1).

Cohen, K. M., Park, S., Simeone, O., Shamai, S. (2024). Cross-validation conformal risk control. arXiv:2401.11974.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["HIGHEST", "ConformalOffset", "HeldOutSpecimen", "counts_images", "loss_bound", "specimens_needed"]

# The loss of a specimen is bounded by 1, or by this many times epsilon if that is more; with more specimens, by more.
_LEAST_BOUND = 3.0
# With two specimens each would be scored with the tails of a single one.
_FEWEST_SPECIMENS = 3
# A guarantee holds at its own number after rounding of the map to float32.
_ROUNDING = 1e-6
# Regions of higher nominal log10 NFA are ignored.
HIGHEST = 3.0
# The values of held-out specimens are rounded to float32, those of a new image are not: equal ones must stay equal.
_JUST_BELOW = 1e-6
# Largest difference, in decades, by which values between two thresholds of the guarantee keep their order.
_ORDER = 0.002
# log10 of the largest number of false alarms in the curve of guarantees.
_MOST_GUARANTEED = 2


@dataclass(frozen=True)
class HeldOutSpecimen:
    """False alarms of the region test in one held-out specimen.

    Attributes
    ----------
    name : str
        Name of the specimen.
    images : tuple of tuple of float
        For each image, in increasing order, the nominal log10 NFA from which one, two, three ... regions are reported
        (see :func:`~napari_uflow.nfa.labelling.count_thresholds`).
    areas : tuple of float
        Measured normal area of each image, in pixels that the network saw; empty if it is not known, as in older model
        files.
    """

    name: str
    images: tuple[tuple[float, ...], ...]
    areas: tuple[float, ...] = ()


@dataclass(frozen=True)
class ConformalOffset:
    """Map from nominal to guaranteed numbers of false alarms.

    Attributes
    ----------
    specimens : tuple of HeldOutSpecimen
        Held-out specimens; each must have been tested with tails that were not fitted to it.

    Examples
    --------
    Four specimens, one of which has a region of nominal log10 NFA -1, guarantee 1 / 5 or more:

    >>> import numpy as np
    >>> clean = [HeldOutSpecimen(name, ((),)) for name in "abc"]
    >>> offset = ConformalOffset((*clean, HeldOutSpecimen("d", ((-1.0,),))))
    >>> offset.smallest_guaranteed
    0.2
    >>> round(offset.threshold(0.2), 3)
    -1.0
    """

    specimens: tuple[HeldOutSpecimen, ...] = ()

    @property
    def n_specimens(self) -> int:
        """Number of independent specimens."""
        return len(self.specimens)

    @property
    def smallest_guaranteed(self) -> float:
        """Smallest number of false alarms that can be guaranteed, 1 / (n + 1); infinite for fewer than 3 specimens."""
        return 1.0 / (self.n_specimens + 1) if self.n_specimens >= _FEWEST_SPECIMENS else math.inf

    @cached_property
    def area(self) -> float:
        """Calibrated area in pixels: the mean over specimens of the mean area of their images; 0 if it is not known."""
        if not self.specimens or not all(specimen.areas for specimen in self.specimens):
            return 0.0
        return float(np.mean([np.mean(specimen.areas) for specimen in self.specimens]))

    @property
    def largest_area(self) -> float:
        """Area of the largest held-out image in pixels; 0 if it is not known."""
        return max((area for specimen in self.specimens for area in specimen.areas), default=0.0)

    def threshold(self, false_alarms: float) -> float:
        """Return the nominal log10 NFA up to which regions are reported.

        Parameters
        ----------
        false_alarms : float
            False alarms accepted per image, above 0.

        Returns
        -------
        float
            At most 3. With too few specimens for a guarantee: log10 of `false_alarms` itself, or as many decades below
            the strictest guaranteed threshold as `false_alarms` is below the smallest guaranteed number.
        """
        log10_epsilon = math.log10(false_alarms)
        if not self.n_specimens:
            return log10_epsilon
        smallest = self.smallest_guaranteed
        if false_alarms >= smallest * (1 - 1e-9):
            return self._certified(false_alarms)
        if not math.isfinite(smallest):
            return min(log10_epsilon, float(self._edges[0]))
        return min(log10_epsilon, self._certified(smallest) + log10_epsilon - math.log10(smallest))

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        """Candidate thresholds (k,), increasing: just below each region of the held-out specimens, and the highest."""
        values = np.unique([value for specimen in self.specimens for image in specimen.images for value in image])
        return np.append(values - _JUST_BELOW * np.maximum(1.0, np.abs(values)), HIGHEST)

    @cached_property
    def _counts(self) -> NDArray[np.int16]:
        """Regions at or below each of the edges, (k, images)."""
        images = [image for specimen in self.specimens for image in specimen.images]
        counts = np.zeros((len(self._edges), len(images)), dtype=np.int16)
        for i, image in enumerate(images):
            counts[:, i] = np.searchsorted(image, self._edges, side="right")
        return counts

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """Weight of each image, (images,); those of a specimen sum to 1."""
        return np.array([1 / len(specimen.images) for specimen in self.specimens for _ in specimen.images])

    @cached_property
    def _calibrated_areas(self) -> NDArray[np.float64]:
        """Area of each image in calibrated areas, at least 1, (images,)."""
        if not self.area:
            return np.ones(len(self._weights))
        return np.maximum(1.0, [area / self.area for specimen in self.specimens for area in specimen.areas])

    def _loss(self, counts: NDArray[np.int16], bound: float) -> NDArray[np.float64]:
        """Return the sum over specimens of the mean of min(counts, bound per calibrated area); counts (..., images)."""
        loss: NDArray[np.float64] = np.minimum(counts, bound * self._calibrated_areas) @ self._weights
        return loss

    def _certified(self, false_alarms: float) -> float:
        """Return the largest nominal threshold whose guaranteed number is at most `false_alarms`."""
        bound = loss_bound(false_alarms, self.n_specimens)
        allowed = false_alarms * (1 + 1e-9) * (self.n_specimens + 1) - bound
        # The loss never decreases with the threshold; the first edge lies below every region.
        low, high = 0, len(self._edges)
        while high - low > 1:
            middle = (low + high) // 2
            if self._loss(self._counts[middle], bound) <= allowed:
                low = middle
            else:
                high = middle
        return float(self._edges[low])

    def guaranteed(self, log10_nfa: NDArray[np.floating]) -> NDArray[np.float64]:
        """Convert nominal values to guaranteed ones, so that a threshold on the result is guaranteed.

        Parameters
        ----------
        log10_nfa : (...) array, float
            Nominal log10 NFA.

        Returns
        -------
        (...) array, float64
            log10 of the smallest number of false alarms at which a region of this value is reported: exact if the
            guarantee is about images (see :func:`counts_images`), otherwise in steps of 0.01 (from 1e-6 to 100). Values
            that are reported together keep their order, within 0.002 below that number (0.5 %), and above the next
            smaller one.
        """
        values = np.asarray(log10_nfa, dtype=np.float64)
        if not self.n_specimens:
            return values
        nominal, guarantee = self._curve
        at = np.minimum(np.searchsorted(nominal, values, side="left"), len(nominal) - 1)
        step = np.diff(nominal, prepend=-np.inf)[at]
        room = np.minimum(_ORDER, 0.5 * np.diff(guarantee, prepend=-np.inf)[at])
        inside = guarantee[at] - np.minimum(_ROUNDING, room) - room * np.clip((nominal[at] - values) / step, 0.0, 1.0)
        # Far below, a decade stays a decade; above the highest threshold no region is reported.
        inside = inside + np.minimum(values - nominal[0], 0.0)
        guaranteed: NDArray[np.float64] = np.where(
            values > nominal[-1], _MOST_GUARANTEED + values - nominal[-1], inside
        )
        return guaranteed

    @cached_property
    def _curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nominal thresholds (k,), strictly increasing, and the smallest guaranteed number (log10) of each."""
        grid = np.round(np.arange(-600, 100 * _MOST_GUARANTEED + 1) / 100, 2)
        # With a bound of 1 the guarantee jumps at each further held-out image with a false alarm.
        jumps = np.log10((np.unique(self._loss(self._counts, 1.0)) + 1.0) / (self.n_specimens + 1))
        guarantee = np.unique(np.append(grid, jumps[jumps < _MOST_GUARANTEED]))
        nominal = np.maximum.accumulate([self.threshold(10.0**p) for p in guarantee])
        nominal, first = np.unique(nominal, return_index=True)
        return nominal, guarantee[first]

    def observed(self, false_alarms: float) -> float:
        """Return what the guarantee bounds, as it was in the held-out images at the guaranteed threshold.

        The part of them with any false alarm if the guarantee is about images (see :func:`counts_images`); otherwise
        their mean number, where more than :func:`loss_bound` per calibrated area of an image count as that. NaN without
        specimens.
        """
        return self._observed_at(self.threshold(false_alarms), false_alarms)

    def nominally_observed(self, false_alarms: float) -> float:
        """Return what :meth:`observed` does, at the nominal threshold."""
        return self._observed_at(math.log10(false_alarms), false_alarms)

    def _observed_at(self, log10_t: float, false_alarms: float) -> float:
        if not self.n_specimens:
            return math.nan
        images = [image for specimen in self.specimens for image in specimen.images]
        counts = np.array([np.searchsorted(image, log10_t, side="right") for image in images], dtype=np.int16)
        return float(self._loss(counts, loss_bound(false_alarms, self.n_specimens))) / self.n_specimens

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain values for JSON."""
        plain = []
        for specimen in self.specimens:
            areas = {"areas": list(specimen.areas)} if specimen.areas else {}
            plain.append({"name": specimen.name, "images": [list(image) for image in specimen.images], **areas})
        return plain

    @classmethod
    def from_list(cls, specimens: Sequence[Mapping[str, Any]]) -> Self:
        """Return the offset from the values of :meth:`to_list`.

        Raises
        ------
        ValueError
            If they are none of an offset.
        """
        found = tuple(
            HeldOutSpecimen(
                str(f["name"]),
                tuple(tuple(map(float, p)) for p in f["images"]),
                tuple(map(float, f.get("areas", ()))),
            )
            for f in specimens
        )
        for image in (image for specimen in found for image in specimen.images):
            if not np.isfinite(image).all() or any(np.diff(image) < 0):
                raise ValueError("the held-out specimens of its calibration are none that a training tests")
        if not all(specimen.images for specimen in found):
            raise ValueError("a held-out specimen of its calibration has no image")
        if not all(_are_areas(specimen) for specimen in found):
            raise ValueError("the areas of the held-out images of its calibration are none that a training measures")
        return cls(found)


def _are_areas(specimen: HeldOutSpecimen) -> bool:
    """Return whether each image has a finite area of 0 or more, or no area is known."""
    areas = specimen.areas
    return not areas or (len(areas) == len(specimen.images) and all(0 <= area < math.inf for area in areas))


def specimens_needed(false_alarms: float) -> int:
    """Return the number of held-out specimens required to guarantee a number of false alarms per image.

    Examples
    --------
    >>> [specimens_needed(epsilon) for epsilon in (1.0, 0.1, 0.01)]
    [3, 9, 99]
    """
    return max(_FEWEST_SPECIMENS, math.ceil(max(1.0, _LEAST_BOUND * false_alarms) / false_alarms - 1 - 1e-9))


def counts_images(false_alarms: float, n_specimens: int) -> bool:
    """Return True if a guarantee bounds the fraction of images with any false alarm, False if their mean number."""
    return loss_bound(false_alarms, n_specimens) == 1.0


def loss_bound(false_alarms: float, n_specimens: int) -> float:
    """Return B, the number that an image with more false alarms counts as in the guarantee."""
    return max(1.0, false_alarms * max(_LEAST_BOUND, math.sqrt(n_specimens + 1)))
