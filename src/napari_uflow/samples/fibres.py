"""Drawn sample images: electrospun fibres as a scanning electron microscope shows them.

The image is drawn twice, without and with its defects; the mask is the difference, and outside it both images are equal
to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ConfigError
from napari_uflow.samples.defects import DefectKind, add_defects
from napari_uflow.samples.drawing import photograph, render
from napari_uflow.samples.scene import Edits, make_scene

__all__ = ["DefectKind", "FibreField", "fibre_field"]


@dataclass(frozen=True)
class FibreField:
    """Image of fibres and the mask of its defects.

    Attributes
    ----------
    image : (M, N) array, uint8
        Grey levels, 0 to 255.
    labels : (M, N) array, uint8
        0 in normal pixels, n in pixels of defect n, whose kind is ``kinds[n - 1]``.
    kinds : tuple of str
        Kind of each defect: "bead", "broken" or "merged". Empty for a normal image.
    seed : int
        Seed of the image.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    kinds: tuple[DefectKind, ...]
    seed: int

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """True in pixels of a defect, (M, N) bool."""
        return self.labels > 0


def fibre_field(
    seed: int,
    *,
    shape: tuple[int, int] = (256, 256),
    defects: int = 0,
    kinds: Sequence[DefectKind] = get_args(DefectKind),
    severity: tuple[float, float] = (0.0, 1.0),
    diameter_px: float = 9.0,
    aligned: bool = False,
) -> FibreField:
    """Draw one image of electrospun fibres.

    Parameters
    ----------
    seed : int
        Seed, 0 or more. The same arguments give the same image; fibres, defects and noise have separate random streams,
        so the image with defects differs from the one without only inside its mask.
    shape : (int, int)
        Rows and columns (M, N), each at least 12 fibre diameters.
    defects : int
        Number of defects, 0 to 20; fewer if not all of them can be placed visibly.
    kinds : sequence of str
        Kinds to draw the defects from: "bead" (swelling of a fibre), "broken" (fibre cut in two) and "merged" (parallel
        fibres fused by a film).
    severity : (float, float)
        Range of severity, from 0 (barely recognisable as a defect) to 1 (obvious).
    diameter_px : float
        Mean diameter of the fibres in pixels, 4 to 40.
    aligned : bool
        True gives all images one main direction with a small deviation, like fibres spun onto a rotating drum; False
        gives each image its own direction, or none.

    Returns
    -------
    FibreField
        Image and mask. A pixel belongs to a defect if the defect changes the noise-free image by more than 2 grey
        levels, if the defect itself is visible, or if the pixel is enclosed by such pixels. All other pixels equal
        those of the normal image of the same seed.

    Raises
    ------
    ConfigError
        If an argument is out of its range.
    """
    _check(seed, shape, defects, kinds, severity, diameter_px)
    scene = make_scene(np.random.default_rng((seed, 0)), shape, diameter_px, aligned)
    normal, owner, _ = render(scene, Edits())
    clean, labels = normal, np.zeros(shape, np.uint8)
    chosen: tuple[DefectKind, ...] = ()
    if defects:
        clean, labels, chosen = add_defects(seed, scene, normal, owner, defects, kinds, severity)
    return FibreField(photograph(np.random.default_rng((seed, 1)), clean, scene.noise), labels, chosen, seed)


def _check(
    seed: int, shape: tuple[int, int], defects: int, kinds: Sequence[str], severity: tuple[float, float],
    diameter: float,
) -> None:  # fmt: skip
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, not {seed}")
    if not 4 <= diameter <= 40:
        raise ConfigError(f"diameter_px must be from 4 to 40, not {diameter}")
    if len(shape) != 2 or min(shape) < 12 * diameter:
        raise ConfigError(f"shape must be (rows, columns), each at least {12 * diameter:g} pixels, not {shape}")
    if not 0 <= defects <= 20:
        raise ConfigError(f"defects must be from 0 to 20, not {defects}")
    if not kinds or set(kinds) - set(get_args(DefectKind)):
        raise ConfigError(f"kinds must be some of {', '.join(get_args(DefectKind))}, not {tuple(kinds)}")
    if not 0 <= severity[0] <= severity[1] <= 1:
        raise ConfigError(f"severity must be (low, high) with 0 <= low <= high <= 1, not {severity}")
