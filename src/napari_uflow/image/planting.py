"""Planted defects: changes of a normal image whose kind, size, contrast and pixels are known.

They measure what a model finds where no real defects are at hand. They are drawn, so they are not a sample of real
defects: a result on them holds for them. Comparable generators serve as training data in the literature (V. Zavrtanik,
M. Kristan, D. Skočaj (2021), DRAEM, doi 10.1109/ICCV48922.2021.00822; C.-L. Li, K. Sohn, J. Yoon, T. Pfister (2021),
CutPaste, doi 10.1109/CVPR46437.2021.00954).
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.distance import cdist

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane

__all__ = [
    "PLANTED_KINDS",
    "DefectPlan",
    "DefectQueue",
    "PlantedDefect",
    "PlantedImage",
    "PlantedKind",
    "draw_plans",
    "plant",
]

PlantedKind = Literal["patch", "blurred", "shifted", "brightened", "darkened", "line", "blob"]

PLANTED_KINDS: tuple[PlantedKind, ...] = get_args(PlantedKind)
"""All kinds of planted defects."""

# Largest area of a defect, as a fraction of its image: a larger one would change the background it is compared with.
_LARGEST_DEFECT = 0.1
_TRIES = 3

_WITHOUT_CONTRAST = frozenset({"patch", "blurred", "shifted"})

# Places tried for one defect, and parts of a donor tried for one place.
_PLACES, _PARTS = 200, 10
# Fraction of a defect's pixels that must lie inside the image: a smaller rest has another shape.
_LEAST_VISIBLE = 0.25
# Fraction of the wanted contrast that must remain after clipping, and change of a kind without contrast, as a fraction
# of the span: an image that is already black cannot be darkened, and a constant one cannot be blurred.
_LEAST_KEPT, _LEAST_CHANGE = 0.5, 0.01
# Weight below which a pixel of the rim is left alone.
_LEAST_WEIGHT = 0.02
_WIDEST_LINE = 4.0

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DefectPlan:
    """Defect to plant.

    Parameters
    ----------
    kind : str
        One of `PLANTED_KINDS`: "patch" (a part of another image, blended at a soft rim), "blurred", "shifted" (the
        image's own texture, displaced), "brightened", "darkened", "line" (1 to 4 pixels wide, dark or bright) or "blob"
        (uniform, or of noise).
    size_px : float
        Diameter of the disc of the same area, in pixels; of a line its length. 2 or more.
    contrast : float or None
        Change as a fraction of the normal intensity range, above 0; of a blob of noise its standard deviation. None for
        "patch", "blurred" and "shifted", whose change is that of the texture.

    Raises
    ------
    ConfigError
        If a value is out of its range, or the kind has no contrast or needs one.
    """

    kind: PlantedKind
    size_px: float
    contrast: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in PLANTED_KINDS:
            raise ConfigError(f"the kind of a planted defect must be one of {', '.join(PLANTED_KINDS)}: {self.kind!r}")
        if not 2 <= self.size_px < math.inf:
            raise ConfigError(f"the size of a planted defect must be 2 pixels or more, not {self.size_px}")
        if (self.contrast is None) != (self.kind in _WITHOUT_CONTRAST):
            needs = "has no contrast" if self.kind in _WITHOUT_CONTRAST else "needs a contrast"
            raise ConfigError(f"a planted defect of the kind {self.kind!r} {needs}, not {self.contrast}")
        if self.contrast is not None and not 0 < self.contrast < math.inf:
            raise ConfigError(f"the contrast of a planted defect must be above 0, not {self.contrast}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedDefect:
    """Defect as it was planted.

    Attributes
    ----------
    kind, size_px, contrast
        As planned, see :class:`DefectPlan`; the size counts pixels beyond the border too.
    label : int
        Number of the defect in the labels of its image, 1 or more.
    window : Window
        Bounding box of the changed pixels.
    area_px : int
        Number of changed pixels.
    change : float
        Root mean square of the change over these pixels and the channels, as a fraction of the normal intensity range.
    width_px : float or None
        Width of a line, in pixels.
    touches_border : bool
        True if a changed pixel lies at the border of the image.
    """

    kind: PlantedKind
    size_px: float
    contrast: float | None
    label: int
    window: Window
    area_px: int
    change: float
    width_px: float | None
    touches_border: bool


@dataclass(frozen=True, eq=False)
class PlantedImage:
    """Image with planted defects.

    Attributes
    ----------
    values : (C, M, N) array, float32
        Pixels, equal to those of the normal image outside the defects.
    labels : (M, N) array, int32
        Number of the defect in each pixel that was changed, 0 elsewhere.
    defects : tuple of PlantedDefect
        Defects by label.
    left_out : tuple of DefectPlan
        Plans for which no place was found.
    dtype : dtype
        Type of the pixels of the normal image.
    """

    values: Float32 = field(repr=False)
    labels: npt.NDArray[np.int32] = field(repr=False)
    defects: tuple[PlantedDefect, ...]
    left_out: tuple[DefectPlan, ...] = ()
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def plane(self, like: Plane) -> Plane:
        """Return the image as a plane in memory.

        Parameters
        ----------
        like : Plane
            Plane whose name, pixel size and unit it gets; usually the normal image.
        """
        is_small_integer = self.dtype.kind != "f" and self.dtype.itemsize <= 2  # float32 holds others inexactly
        return Plane(
            data=self.values.astype(self.dtype) if is_small_integer else self.values,
            axes="CYX",
            name=like.title,
            pixel_size=like.pixel_size,
            unit=like.unit,
        )


def draw_plans(
    n: int,
    *,
    seed: int,
    kinds: Sequence[PlantedKind] = PLANTED_KINDS,
    sizes: tuple[float, float] = (4.0, 64.0),
    contrasts: tuple[float, float] = (0.05, 0.6),
) -> list[DefectPlan]:
    """Draw defects to plant: as many of each kind, their sizes and contrasts spread evenly on logarithmic scales.

    Sizes and contrasts of each kind are drawn from a Latin hypercube (M. D. McKay, R. J. Beckman, W. J. Conover 1979,
    doi 10.1080/00401706.1979.10489755), so that few defects cover the range.

    Parameters
    ----------
    n : int
        Number of defects, 0 or more.
    seed : int
        Seed; the same arguments give the same plans.
    kinds : sequence of str
        Kinds, at least one, see :class:`DefectPlan`.
    sizes : (float, float)
        Smallest and largest size, in pixels.
    contrasts : (float, float)
        Lowest and highest contrast, as fractions of the normal intensity range.

    Returns
    -------
    list of DefectPlan
        In random order.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """
    if n < 0 or not kinds:
        raise ConfigError(f"there must be 0 or more planted defects of at least one kind, not {n} of {list(kinds)}")
    for name, (low, high) in {"sizes": sizes, "contrasts": contrasts}.items():
        if not 0 < low <= high < math.inf:
            raise ConfigError(f"{name} of planted defects must be two numbers above 0, low and high: {low}, {high}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(kinds))
    plans = []
    for rank, which in enumerate(order):
        kind = kinds[which]
        n_kind = n // len(kinds) + (rank < n % len(kinds))
        at_size, at_contrast = ((rng.permutation(n_kind) + rng.uniform(size=n_kind)) / max(n_kind, 1) for _ in "ab")
        for s, c in zip(at_size, at_contrast, strict=True):
            contrast = None if kind in _WITHOUT_CONTRAST else _between(contrasts, c)
            plans.append(DefectPlan(kind, _between(sizes, s), contrast))
    return [plans[i] for i in rng.permutation(n)]


def _between(limits: tuple[float, float], part: float) -> float:
    """Return a number between two limits, 0 and 1 of the way on a logarithmic scale."""
    return float(limits[0] * (limits[1] / limits[0]) ** part)


def plant(
    values: Float32,
    plans: Sequence[DefectPlan],
    *,
    seed: int,
    span: Sequence[float],
    donors: Sequence[Float32] = (),
    normal: Mask | None = None,
    dtype: npt.DTypeLike = np.float32,
    margin: int = 16,
) -> PlantedImage:
    """Plant defects into a normal image.

    The centre of a defect is uniform over the places where all its pixels inside the image are normal and it keeps its
    distance from the others. It may lie at the border, which then cuts the defect; at least a quarter of it is visible.
    A place where the defect would not be visible, because the image is saturated or constant, is not used.

    Parameters
    ----------
    values : (C, M, N) array, float32
        Pixels from :meth:`~napari_uflow.image.plane.Plane.read`; not changed.
    plans : sequence of DefectPlan
        Defects to plant; the largest are placed first.
    seed : int
        Seed, 0 or more; the same arguments give the same image.
    span : sequence of float
        Normal intensity range of each channel, above 0: the difference of the limits of
        :class:`~napari_uflow.image.intensity.IntensityRange`.
    donors : sequence of (C, m, n) arrays, float32
        Other images, from which patches are taken; without one that is large enough, the image itself, turned.
    normal : (M, N) array, bool, or None
        True in pixels that may be changed; by default all. Pixels that are not finite are never changed.
    dtype : dtype
        Type of the image's pixels. For integers, changed pixels are rounded and clipped to the range of the type; a
        float image without negative values gets none.
    margin : int
        Pixels between two defects, 0 or more.

    Returns
    -------
    PlantedImage

    Raises
    ------
    ImageError
        If the shapes do not fit together.
    ConfigError
        If the span or the margin is out of its range.
    """
    if values.ndim != 3 or 0 in values.shape:
        raise ImageError(f"an image to plant defects in must have the shape (C, M, N), not {values.shape}")
    n_channels, *shape = values.shape
    if normal is not None and normal.shape != tuple(shape):
        raise ImageError(f"the mask of normal pixels must have the shape {tuple(shape)}, not {normal.shape}")
    if any(donor.ndim != 3 or donor.shape[0] != n_channels for donor in donors):
        raise ImageError(f"images to take patches from must have the shape (C, m, n) with {n_channels} channels")
    spans = np.asarray(span, dtype=np.float64)
    if spans.shape != (n_channels,) or not (np.isfinite(spans).all() and (spans > 0).all()):
        raise ConfigError(f"span must be a number above 0 for each of {n_channels} channels, not {list(span)}")
    if margin < 0:
        raise ConfigError(f"margin must be 0 or more, not {margin}")
    canvas = _Canvas(values, spans.astype(np.float32), donors, normal, np.dtype(dtype))
    for number, plan in sorted(enumerate(plans), key=lambda item: (-item[1].size_px, item[0])):
        canvas.add(plan, np.random.default_rng((seed, number)), margin)
    return PlantedImage(canvas.values, canvas.labels, tuple(canvas.defects), tuple(canvas.left_out), np.dtype(dtype))


class DefectQueue:
    """Plans of defects that are planted into one image after another, each until it finds a place or was tried thrice.

    Parameters
    ----------
    plans : sequence of DefectPlan
        Defects to plant.
    seed : int
        Seed, 0 or more.

    Attributes
    ----------
    turn : int
        Images so far.
    """

    def __init__(self, plans: Sequence[DefectPlan], seed: int):
        self._seed = seed
        self._pending, self._tries = deque(plans), Counter[DefectPlan]()
        self._sizes = (min(plan.size_px for plan in plans), max(plan.size_px for plan in plans))
        self.turn = 0

    def __len__(self) -> int:
        return len(self._pending)

    def plant(
        self,
        values: Float32,
        n_defects: int,
        *,
        span: Sequence[float],
        donors: Sequence[Float32],
        normal: Mask,
        dtype: npt.DTypeLike,
        margin: int,
    ) -> PlantedImage:
        """Plant the next `n_defects` plans into an image; those that find no place are put back.

        The sizes are moved from the range of all plans into one whose largest defect is a tenth of the image. The other
        parameters are those of :func:`plant`.
        """
        taken = [self._pending.popleft() for _ in range(min(n_defects, len(self._pending)))]
        fitted = [self._fitted(plan, normal.size) for plan in taken]
        planted = plant(
            values,
            fitted,
            seed=int(np.random.SeedSequence((self._seed, self.turn)).generate_state(1)[0]),
            span=span,
            donors=donors,
            normal=normal,
            dtype=dtype,
            margin=margin,
        )
        self.turn += 1
        self._tries.update(taken)
        self._pending.extend(
            plan
            for plan, drawn in zip(taken, fitted, strict=True)
            if drawn in planted.left_out and self._tries[plan] < _TRIES
        )
        return planted

    def _fitted(self, plan: DefectPlan, n_pixels: int) -> DefectPlan:
        low, high = self._sizes
        largest = max(low, math.sqrt(4 / math.pi * _LARGEST_DEFECT * n_pixels))
        if high <= largest or high <= low:
            return plan
        part = math.log(plan.size_px / low) / math.log(high / low)
        return DefectPlan(plan.kind, low * (largest / low) ** part, plan.contrast)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """Shape of a defect: weights (2r + 1, 2r + 1) in [0, 1] around its centre, and the width of a line."""

    weight: Float32
    width_px: float | None = None

    @property
    def reach(self) -> int:
        """Pixels from the centre to the border of the weights."""
        return len(self.weight) // 2


class _Canvas:
    """Image that defects are planted in, one after the other."""

    def __init__(
        self,
        values: Float32,
        span: Float32,
        donors: Sequence[Float32],
        normal: Mask | None,
        dtype: np.dtype[Any],
    ) -> None:
        self.values = values.astype(np.float32)
        self.labels = np.zeros(values.shape[1:], dtype=np.int32)
        self.defects: list[PlantedDefect] = []
        self.left_out: list[DefectPlan] = []
        self._span = span[:, None, None]
        self._donors = donors
        finite: Mask = np.asarray(np.isfinite(values).all(axis=0))
        self._free: Mask = finite.copy() if normal is None else np.asarray(finite & normal)
        self._shape = (int(values.shape[1]), int(values.shape[2]))
        self._is_whole = dtype.kind != "f"
        self._limits = (-math.inf, math.inf)
        if dtype.kind == "b":
            self._limits = (0.0, 1.0)
        elif self._is_whole:
            self._limits = (float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))
        elif finite.any() and values[:, finite].min() >= 0:
            self._limits = (0.0, math.inf)

    def add(self, plan: DefectPlan, rng: np.random.Generator, margin: int) -> None:
        """Plant one defect, or leave it out if no place suits it."""
        stamp = _line(rng, plan.size_px) if plan.kind == "line" else _outline(rng, plan.size_px)
        n_pixels = np.count_nonzero(stamp.weight)
        centres = np.flatnonzero(self._free)
        for _ in range(_PLACES if centres.size else 0):
            row, col = divmod(int(centres[rng.integers(centres.size)]), self._shape[1])
            window = Window(row, col, 1, 1).grown(stamp.reach)
            inside = window.clipped(self._shape)
            here = inside.shifted(-window.row, -window.col).slices()
            covered: Mask = np.asarray(stamp.weight[here] > 0)
            if np.count_nonzero(covered) < _LEAST_VISIBLE * n_pixels or not self._free[inside.slices()][covered].all():
                continue
            old = self.values[(slice(None), *inside.slices())]
            for new in self._drawn(plan, stamp, rng, window):
                with np.errstate(invalid="ignore", over="ignore"):  # of pixels that are not finite
                    mixed = self._limited(old + stamp.weight[here] * (new[(slice(None), *here)] - old))
                if self._is_visible(plan, old, mixed, stamp.weight[here]):
                    self._put(plan, stamp, inside, mixed, covered)
                    self._block(inside, covered, margin)
                    return
        self.left_out.append(plan)

    def _limited(self, mixed: Float32) -> Float32:
        whole = np.rint(mixed) if self._is_whole else mixed
        return np.clip(whole, *self._limits).astype(np.float32)

    def _is_visible(self, plan: DefectPlan, old: Float32, mixed: Float32, weight: Float32) -> bool:
        covered: Mask = np.asarray(weight > 0)
        change = ((mixed[:, covered] - old[:, covered]) / self._span[:, 0]).astype(np.float64)
        size = math.sqrt(float((change**2).mean(axis=0).sum()) / float((weight[covered].astype(np.float64) ** 2).sum()))
        return size >= (_LEAST_CHANGE if plan.contrast is None else _LEAST_KEPT * plan.contrast)

    def _put(self, plan: DefectPlan, stamp: _Stamp, inside: Window, mixed: Float32, covered: Mask) -> None:
        target = self.values[(slice(None), *inside.slices())]
        changed: Mask = covered & (mixed != target).any(axis=0)
        change = ((mixed[:, changed] - target[:, changed]) / self._span[:, 0]).astype(np.float64)
        target[:, changed] = mixed[:, changed]
        label = len(self.defects) + 1
        self.labels[inside.slices()][changed] = label
        rows, cols = np.nonzero(changed)
        box = Window(int(rows.min()), int(cols.min()), int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1)
        box = box.shifted(inside.row, inside.col)
        defect = PlantedDefect(
            kind=plan.kind,
            size_px=plan.size_px,
            contrast=plan.contrast,
            label=label,
            window=box,
            area_px=int(np.count_nonzero(changed)),
            change=math.sqrt(float((change**2).mean())),
            width_px=stamp.width_px,
            touches_border=box.grown(1).clipped(self._shape) != box.grown(1),
        )
        self.defects.append(defect)

    def _block(self, inside: Window, covered: Mask, margin: int) -> None:
        """Keep the next defects away from this one."""
        grown = inside.grown(margin).clipped(self._shape)
        away = np.ones(grown.shape, dtype=bool)
        away[inside.shifted(-grown.row, -grown.col).slices()] = ~covered
        self._free[grown.slices()] &= ndimage.distance_transform_edt(away) > margin

    def _drawn(self, plan: DefectPlan, stamp: _Stamp, rng: np.random.Generator, window: Window) -> list[Float32]:
        """Return the pixels (C, h, w) of a defect in its window, with alternatives for a saturated place."""
        old = _surroundings(self.values, window)
        if plan.contrast is None:
            return [self._texture(plan, rng, window)]
        step = np.float32(plan.contrast) * self._span
        sign = np.float32(rng.choice([-1, 1]))
        if plan.kind in ("brightened", "darkened"):
            return [old + step if plan.kind == "brightened" else old - step]
        if plan.kind == "line":
            return [old + sign * step, old - sign * step]
        mean = (old * stamp.weight).sum(axis=(1, 2), keepdims=True) / stamp.weight.sum()
        if rng.uniform() < 0.5:
            return [np.broadcast_to(mean + s * step, old.shape).astype(np.float32) for s in (sign, -sign)]
        noise = ndimage.gaussian_filter(rng.standard_normal(old.shape[1:]), rng.uniform(0, 2), mode="wrap")
        return [(mean + step * (noise / noise.std()).astype(np.float32)).astype(np.float32)]

    def _texture(self, plan: DefectPlan, rng: np.random.Generator, window: Window) -> Float32:
        if plan.kind == "patch":
            return self._patch(rng, window)
        if plan.kind == "blurred":
            sigma = max(1.5, 0.15 * plan.size_px)
            reach = math.ceil(3 * sigma)
            around = _surroundings(self.values, window.grown(reach))
            soft = ndimage.gaussian_filter(around, (0, sigma, sigma), truncate=3.0)
            return np.asarray(soft[:, reach:-reach, reach:-reach], dtype=np.float32)
        angle, length = rng.uniform(0, 2 * math.pi), max(3.0, plan.size_px * rng.uniform(0.3, 0.6))
        rows, cols = round(length * math.sin(angle)), round(length * math.cos(angle))
        return _surroundings(self.values, window.shifted(rows, cols))

    def _patch(self, rng: np.random.Generator, window: Window) -> Float32:
        """Return a square part of another image in a random orientation."""
        side = window.height
        fitting = [donor for donor in self._donors if min(donor.shape[1:]) >= side]
        turns = int(rng.integers(4))
        for _ in range(_PARTS if fitting else 0):
            donor = fitting[int(rng.integers(len(fitting)))]
            row, col = (int(rng.integers(n - side + 1)) for n in donor.shape[1:])
            part = donor[:, row : row + side, col : col + side]
            if np.isfinite(part).all():
                return np.rot90(part[:, :, :: int(rng.choice([-1, 1]))], turns, axes=(1, 2)).astype(np.float32)
        row, col = (int(rng.integers(n)) for n in self._shape)
        part = _surroundings(self.values, Window(row, col, 1, 1).grown(side // 2))
        return np.rot90(part, max(turns, 1), axes=(1, 2)).astype(np.float32)


def _surroundings(values: Float32, window: Window) -> Float32:
    """Return the pixels (C, h, w) of a window, reflected outside the image; the nearest finite one for others."""
    places = [
        np.arange(start, stop) % (2 * size)
        for start, stop, size in zip(
            (window.row, window.col), (window.stop_row, window.stop_col), values.shape[1:], strict=True
        )
    ]
    rows, cols = (np.minimum(at, 2 * n - 1 - at) for at, n in zip(places, values.shape[1:], strict=True))
    part = values[:, rows[:, None], cols]
    finite = np.isfinite(part).all(axis=0)
    if not finite.all():
        if not finite.any():
            return np.zeros_like(part)
        nearest = ndimage.distance_transform_edt(~finite, return_distances=False, return_indices=True)
        part = part[:, nearest[0], nearest[1]]
    return np.ascontiguousarray(part)


def _outline(rng: np.random.Generator, size: float) -> _Stamp:
    """Return an irregular blob whose area is that of a disc of the given diameter, with a soft rim."""
    orders = np.arange(2, 6)
    amplitudes, phases = rng.normal(0, 0.3 / orders), rng.uniform(0, 2 * math.pi, orders.size)

    def radius(angle: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        waves = amplitudes * np.cos(orders * angle[..., None] + phases)
        return np.asarray(np.exp(waves.sum(axis=-1)))

    around = radius(np.linspace(0, 2 * math.pi, 360, endpoint=False))
    scale = 0.5 * size / math.sqrt(float((around**2).mean()))
    rim = max(1.0, 0.12 * size)
    reach = math.ceil(scale * float(around.max()) + rim / 2 + 0.5)
    row, col = np.mgrid[-reach : reach + 1, -reach : reach + 1] - rng.uniform(-0.5, 0.5, (2, 1, 1))
    inward = scale * radius(np.arctan2(row, col)) - np.hypot(row, col)
    return _Stamp(_weight(inward / rim + 0.5))


def _line(rng: np.random.Generator, size: float) -> _Stamp:
    """Return a crooked line of the given length and a random width."""
    width = float(rng.uniform(1.0, max(1.0, min(_WIDEST_LINE, size / 3))))
    n_steps = 2 * math.ceil(size)
    step = (size - width) / n_steps
    heading = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0, 0.15 * math.sqrt(step), n_steps))
    moves = step * np.stack([np.sin(heading), np.cos(heading)], axis=1)
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    points += rng.uniform(-0.5, 0.5, 2) - (points.min(axis=0) + points.max(axis=0)) / 2
    reach = math.ceil(float(np.abs(points).max()) + width / 2 + 0.5)
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    distance = cdist(grid, points).min(axis=1).reshape(2 * reach + 1, 2 * reach + 1)
    return _Stamp(_weight(width / 2 + 0.5 - distance), width)


def _weight(values: npt.NDArray[np.float64]) -> Float32:
    weight = np.clip(values, 0, 1).astype(np.float32)
    weight[weight < _LEAST_WEIGHT] = 0
    return weight
