"""What the samples of a TIFF file mean: colours as they are shown, without alpha; what is unknown is refused."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_uflow.errors import ImageError
from napari_uflow.image.plane import LazyArray
from napari_uflow.store.views import Recoloured

__all__ = ["as_shown", "cmyk_to_rgb", "without_alpha"]

_PLAIN = frozenset({1, 2, 4, 34892, 51177})
"""Photometric interpretations whose values are read as they are: grey, RGB, mask, linear raw, depth."""

_DECODED_TO_RGB = frozenset({6, 7, 33007, 34892, 50001, 50002, 52546})
"""Compressions (JPEG, WebP, JPEG XL) whose decoders return RGB for YCbCr."""


def as_shown(data: LazyArray, axes: str, series: tifffile.TiffPageSeries, path: Path) -> tuple[LazyArray, str]:
    """Return the pixels of a series as a viewer shows them, with their axes.

    Colours of a palette become red, green and blue; white-is-zero is inverted, except in files of ImageJ, whose values
    are measurements and whose inversion is of the display only, and of boolean arrays that were written from Python
    (tifffile calls them white-is-zero and leaves True 1); CMYK and YCbCr become RGB; alpha is left out, and
    colours that were multiplied by it are divided by it.

    Parameters
    ----------
    data : array-like
        Pixels as stored.
    axes : str
        One letter per axis, S for samples.
    series : tifffile.TiffPageSeries
        Series of an open file.
    path : Path
        File, for messages.

    Raises
    ------
    ImageError
        If the values do not tell the brightness or the colour, or of CIELAB and other colours.
    """
    page = series.keyframe
    photometric, dtype = int(page.photometric), np.dtype(data.dtype)
    samples = axes.find("S") if int(page.samplesperpixel) > 1 else -1
    if photometric == 3:
        return _of_palette(data, axes, series, path)
    if photometric == 0 and not page.parent.is_imagej and not _is_boolean_array(page):
        if dtype.kind not in "bu":
            raise _refused(path, f"white is 0 in values of type {dtype}")
        top = 1 if dtype.kind == "b" else 2 ** int(page.bitspersample) - 1
        data = Recoloured(data, partial(_inverted, top=top), dtype)
    elif photometric == 5:
        if samples < 0 or page.samplesperpixel < 4 or dtype not in (np.uint8, np.uint16) or _inks(page) != 1:
            raise _refused(path, "inks other than CMYK of 8 or 16 bits")
        return Recoloured(data, cmyk_to_rgb, dtype, 3, samples), axes
    elif photometric == 6 and int(page.compression) not in _DECODED_TO_RGB:
        if samples < 0 or page.samplesperpixel != 3 or dtype != np.uint8 or not _is_full_range(page):
            raise _refused(path, "YCbCr colours of an unusual range")
        luma = _fractions(page.tags.valueof(529)) or [0.299, 0.587, 0.114]
        return Recoloured(data, partial(_ycbcr_to_rgb, luma=luma), dtype, 3, samples), axes
    elif photometric not in _PLAIN | {0, 6}:
        name = getattr(page.photometric, "name", photometric)
        raise _refused(path, f"colours of the kind {name}")
    extra = tuple(int(e) for e in page.extrasamples)
    if samples >= 0 and extra and extra[-1] in (1, 2) and page.samplesperpixel in (2, 4):
        data = without_alpha(data, samples, is_multiplied=extra[-1] == 1)
    return data, axes


def _is_boolean_array(page: tifffile.TiffPage) -> bool:
    program = page.parent.pages.first.tags.valueof(305)  # of the file: later pages do not repeat it
    return int(page.bitspersample) == 1 and str(program).startswith("tifffile")


def _refused(path: Path, what: str) -> ImageError:
    return ImageError(f"'{path}' has {what}, which cannot be read; save it as grey or RGB")


def _of_palette(data: LazyArray, axes: str, series: tifffile.TiffPageSeries, path: Path) -> tuple[LazyArray, str]:
    page = series.keyframe
    table = _colour_table(page)
    if table is None or np.dtype(data.dtype).kind not in "bu" or "S" in axes:
        raise _refused(path, "a palette that is damaged or incomplete")
    for other in series.pages:
        own = None if other is None or other is page else _colour_table(other.aspage())
        if own is not None and not np.array_equal(own, table):
            raise _refused(path, "pages with different palettes")
    return Recoloured(data, partial(_looked_up, table=table), table.dtype, 3), f"{axes}S"


def _colour_table(page: tifffile.TiffPage) -> npt.NDArray[Any] | None:
    """Return the colours (n, 3) of a palette, uint8 if 8 bits hold them; None if some are missing."""
    given = page.tags.valueof(320)
    table: npt.NDArray[Any] = np.asarray(() if given is None else given, dtype=np.uint16).reshape(-1)
    n = 2 ** int(page.bitspersample)
    if int(page.bitspersample) > 16 or len(table) != 3 * n:
        return None
    table = table.reshape(3, n).T
    if table.max() < 256:  # writers that forget that the table has 16 bits
        return table.astype(np.uint8)
    if not (table % 257).any() or not (table % 256).any():  # the two ways to make 16 bits of 8
        return (table >> 8).astype(np.uint8)
    return table


def _looked_up(indices: npt.NDArray[Any], *, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.take(table, indices.astype(np.intp), axis=0)


def _inverted(values: npt.NDArray[Any], *, top: int) -> npt.NDArray[Any]:
    return ~values if values.dtype.kind == "b" else (top - values).astype(values.dtype)


def _inks(page: tifffile.TiffPage) -> int:
    return int(page.tags.valueof(332, 1))


def _is_full_range(page: tifffile.TiffPage) -> bool:
    given = page.tags.valueof(532)
    return given is None or _fractions(given) == [0, 255, 128, 255, 128, 255]


def _fractions(values: Any) -> list[float]:
    numbers = [] if values is None else [float(v) for v in values]
    return [a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True)]


def _ycbcr_to_rgb(values: npt.NDArray[Any], *, luma: list[float]) -> npt.NDArray[Any]:
    red, green, blue = luma
    y, cb, cr = np.moveaxis(values.astype(np.float32), -1, 0)
    r = y + (2 - 2 * red) * (cr - 128)
    b = y + (2 - 2 * blue) * (cb - 128)
    g = (y - red * r - blue * b) / green
    rgb: npt.NDArray[Any] = np.clip(np.rint(np.stack([r, g, b], axis=-1)), 0, 255)
    return rgb.astype(np.uint8)


def cmyk_to_rgb(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert CMYK (..., 4 or more) of unsigned integers, of which further samples are left out, to RGB (..., 3)."""
    top = np.iinfo(values.dtype).max
    light = (top - values[..., :4]).astype(np.float64)
    return np.rint(light[..., :3] * light[..., 3:] / top).astype(values.dtype)


def without_alpha(data: LazyArray, sample_axis: int, *, is_multiplied: bool = False) -> Recoloured:
    """Return an array without the last sample of each pixel, its alpha.

    Parameters
    ----------
    data : array-like
        Array with 2 or more samples on an axis.
    sample_axis : int
        That axis.
    is_multiplied : bool
        True if the other samples were multiplied by alpha, which is undone.
    """
    convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = _divided if is_multiplied else _all_but_last
    n_samples = int(data.shape[sample_axis]) - 1
    return Recoloured(data, convert, np.dtype(data.dtype), n_samples, sample_axis)


def _all_but_last(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values[..., :-1]


def _divided(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    alpha = values[..., -1:].astype(np.float64)
    top = 1.0 if values.dtype.kind in "bf" else float(np.iinfo(values.dtype).max)
    colour = np.divide(values[..., :-1] * top, alpha, out=np.zeros(values[..., :-1].shape), where=alpha > 0)
    if values.dtype.kind != "f":
        colour = np.clip(np.rint(colour), 0, top)
    return colour.astype(values.dtype)
