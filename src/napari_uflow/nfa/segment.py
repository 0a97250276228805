"""Regions of one level: the size-conditional test and the published one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_uflow.nfa.counts import LOG10_BETA, log10_tests_published
from napari_uflow.nfa.significance import chernoff_log10_tail
from napari_uflow.nfa.tree import MaxTree, best_regions

__all__ = ["LevelRegions", "RegionTest", "published_regions", "significant_regions"]


@dataclass(frozen=True, slots=True, eq=False)
class LevelRegions:
    """Regions of one level of the flow.

    Attributes
    ----------
    labels : (M, N) array, int32
        0 outside, r inside region r = 1 ... n.
    log10_nfa : (n,) array, float64
        log10 of the number of false alarms of region r at index r - 1, in increasing order.
    """

    labels: NDArray[np.int32]
    log10_nfa: NDArray[np.float64]

    def log10_nfa_map(self, background: float = np.nan) -> NDArray[np.float64]:
        """Return a map with the value of each region in its positions.

        Parameters
        ----------
        background : float
            Value of positions in no region.

        Returns
        -------
        (M, N) array, float64
            log10 NFA of the region that contains each position.
        """
        return np.concatenate([[background], self.log10_nfa])[self.labels]


def significant_regions(
    log10_p: NDArray[np.floating], log10_n_tests: float, correlation_area: float = 1.0
) -> LevelRegions:
    """Disjoint regions of one level with their size-conditional number of false alarms.

    The value of a region R is log10 NFA(R) = log10_n_tests + |R| * (max_R log10_p + LOG10_BETA). Only positions with
    p < 1 / BETA = 0.246 are used; a region that contains another position has an NFA of at least the number of tests,
    so for every threshold below that the result is that of the whole map.

    Parameters
    ----------
    log10_p : (M, N) array, float
        log10 of the probability, at most 0, that a normal position has at least the observed energy; 0 or NaN in
        positions that were not measured. Equal values are one grey level.
    log10_n_tests : float
        log10 of the number of tests, from :func:`~napari_uflow.nfa.counts.log10_tests_for_any_size`.
    correlation_area : float
        Positions, 1 or more, over which normal maps are correlated. A region of |R| positions counts as
        1 + (|R| - 1) / correlation_area positions: a single one keeps its own probability.

    Returns
    -------
    LevelRegions
        All regions, significant or not: a threshold on `log10_nfa` is applied later and changes no region.

    Raises
    ------
    ValueError
        If `log10_p` is not two-dimensional.

    Notes
    -----
    If normal positions are independent, the expected number of regions with NFA < epsilon is at most epsilon: a union
    bound over all sizes (which share epsilon), positions and shapes. See README.md of this folder.

    Examples
    --------
    Two adjacent positions of probability 0.001 and 0.01, tested 100 times: 2 + 2 x (-2 + 0.609).

    >>> import numpy as np
    >>> log10_p = np.array([[0.0, -3.0, -2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> regions = significant_regions(log10_p, log10_n_tests=2.0)
    >>> regions.labels
    array([[0, 1, 1],
           [0, 0, 0],
           [0, 0, 0]], dtype=int32)
    >>> regions.log10_nfa.round(2)
    array([-0.78])
    """
    return RegionTest(log10_p, log10_n_tests, correlation_area).run()


class RegionTest:
    """Test of :func:`significant_regions` in chunks, so that a job can report progress or stop in between.

    Parameters
    ----------
    log10_p, log10_n_tests, correlation_area
        As in :func:`significant_regions`.
    """

    def __init__(self, log10_p: NDArray[np.floating], log10_n_tests: float, correlation_area: float = 1.0) -> None:
        weight = np.asarray(log10_p, dtype=np.float64) + LOG10_BETA
        self._tree: MaxTree | None = MaxTree(-weight, weight, cut=0.0, correlation_area=correlation_area)
        self._log10_n_tests = log10_n_tests

    def grow(self) -> bool:
        """Process the next chunk of positions; return False if none was left."""
        if self._tree is None or self._tree.is_complete:
            return False
        self._tree.grow()
        return True

    def run(self) -> LevelRegions:
        """Process the remaining positions and return the regions; the memory of the tree is released."""
        while self.grow():
            pass
        if self._tree is None:
            raise ValueError("the regions of a test can be returned once")
        labels, log10_value = self._tree.best_regions()
        self._tree = None
        return LevelRegions(labels, self._log10_n_tests + log10_value)


def published_regions(
    energies: Sequence[NDArray[np.floating]], n_channels: Sequence[int], one_sided: bool = True
) -> list[LevelRegions]:
    """Regions of all levels by the published test: Chernoff's bound and one number of tests for all sizes.

    Parameters
    ----------
    energies : sequence of (M_l, N_l) arrays, float
        Mean of z squared over the channels of each level, 0 or more, 1 on average in normal positions; NaN in positions
        that were not measured.
    n_channels : sequence of int
        Number of channels of each level.
    one_sided : bool
        True tests energies above 1 only, for which the bound holds. False reproduces the published code, which also
        reports latents that are too close to 0.

    Returns
    -------
    list of LevelRegions
        One per level; the number of tests is that of all levels together.

    Raises
    ------
    ValueError
        If the two sequences differ in length or are empty, or a map is not two-dimensional.

    References
    ----------
    Tailanian, M., Pardo, A., Musé, P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
    Unsupervised Threshold. J. Math. Imaging Vis. doi:10.1007/s10851-024-01193-y
    """
    if len(energies) != len(n_channels):
        raise ValueError(f"energies and n_channels must be as many, got {len(energies)} and {len(n_channels)}")
    log10_n_tests = log10_tests_published([np.asarray(energy).size for energy in energies])
    levels = []
    for energy, channels in zip(energies, n_channels, strict=True):
        weight = chernoff_log10_tail(energy, channels, one_sided=one_sided)
        labels, log10_value = best_regions(energy, weight, cut=1.0 if one_sided else None)
        levels.append(LevelRegions(labels, log10_n_tests + log10_value))
    return levels
