"""Detection: maps, labels and regions of one plane, with their guarantee and origin."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.detection.regions import RegionTable
from napari_uflow.nfa.conformal import ConformalOffset
from napari_uflow.system.scratch import release_pages, strips

__all__ = ["Detection", "Provenance"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Origin of a detection.

    Attributes
    ----------
    source : str or None
        File of the image; None for an image that was not read from a file.
    version : str
        Version of napari-uflow.
    backbone, feature_norm : str
        Backbone and feature normalisation of the model.
    trained : str or None
        Date of the training.
    """

    source: str | None = None
    version: str = ""
    backbone: str = ""
    feature_norm: str = ""
    trained: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Detection:
    """Anomalous regions and maps of one plane.

    Attributes
    ----------
    name : str
        Name of the plane.
    score : (M, N) array, float32
        Heatmap as `config.heatmap` says; NaN in pixels that were not measured. Rarity is in decades, 0 or more: 3
        where one of 1000 normal positions scores as high. The published score is 0 to 1.
    log10_nfa : (M, N) array, float32
        log10 of the number of false alarms of the region that contains the pixel; above every threshold outside.
    labels : (M, N) array, int32
        0 outside, 1 to n in the anomalous regions, the most significant first.
    regions : RegionTable
        Regions, one row per label.
    energies : tuple of arrays, each (ceil(M / stride), ceil(N / stride)), float32
        Mean of the squared latents, 0 or more, finest level first; NaN in positions that were not measured.
    strides : tuple of float
        Pixels between two positions of each level.
    config : DetectionConfig
        Parameters, with the number of false alarms that `labels` and `regions` were made for.
    guarantee : Guarantee
        Basis of the number of false alarms.
    n_planes : int
        Planes of the stack that the plane belongs to; 1 for a single image.
    n_marked_normal : int
        Regions that were detected and then marked normal.
    pixel_size : (float, float) or None
        Height and width of a pixel in `unit`.
    unit : str or None
        Unit of the pixel size.
    provenance : Provenance
        File, model and version.
    offset : ConformalOffset
        Held-out specimens of the model, for the guarantee of other numbers of false alarms.
    profile : tuple of float
        Statistics of the image as a whole, :meth:`~napari_uflow.nfa.calibrated.Calibration.profile_of`, by which drift
        is noticed; empty for a model without calibration.
    """

    name: str
    score: NDArray[np.float32] = field(repr=False)
    log10_nfa: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int32] = field(repr=False)
    regions: RegionTable = field(repr=False)
    energies: tuple[NDArray[np.float32], ...] = field(repr=False)
    strides: tuple[float, ...]
    config: DetectionConfig
    guarantee: Guarantee
    n_planes: int = 1
    n_marked_normal: int = 0
    pixel_size: tuple[float, float] | None = None
    unit: str | None = None
    provenance: Provenance = field(default=Provenance(), repr=False)
    offset: ConformalOffset = field(default=ConformalOffset(), repr=False)
    profile: tuple[float, ...] = field(default=(), repr=False)

    @property
    def false_alarms(self) -> float:
        """False alarms accepted per image or stack."""
        return self.config.false_alarms

    @property
    def lowest_log10_nfa(self) -> float:
        """Lowest log10 NFA of the image, that of its most anomalous region."""
        lowest = math.nan
        for start, stop in strips(self.log10_nfa.shape):
            lowest = float(np.fmin(lowest, np.fmin.reduce(self.log10_nfa[start:stop], axis=None)))
            release_pages(self.log10_nfa)
        return lowest

    @property
    def is_measured(self) -> bool:
        """True if at least one pixel was measured."""
        return any(np.isfinite(self.score[start:stop]).any() for start, stop in strips(self.score.shape))

    @property
    def is_judged(self) -> bool:
        """True if pixels were measured and no caveat excludes the image: without regions it is free of anomalies."""
        return self.is_measured and not self.guarantee.caveats

    def numbered_after(self, n: int) -> Detection:
        """Return the detection with labels from n + 1 on, for labels that are unique over a stack.

        Parameters
        ----------
        n : int
            Number of regions in the preceding planes.
        """
        if not n or not len(self.regions):
            return self
        labels = np.where(self.labels > 0, self.labels + np.int32(n), 0).astype(np.int32)
        return replace(self, labels=labels, regions=replace(self.regions, label=self.regions.label + np.int32(n)))
