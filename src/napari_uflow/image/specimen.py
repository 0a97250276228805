"""Specimens: the independent samples that images come from, and those to hold out of training."""

import re
from collections.abc import Iterable

import numpy as np

from napari_uflow.errors import ConfigError
from napari_uflow.system.patterns import search_group

__all__ = ["hold_out_specimens", "specimen_of"]

_TILE_SUFFIX = re.compile(
    r"^(.+?)(?:[_\-. ](?:x\d+[_\-]?y\d+|y\d+[_\-]?x\d+|r(?:ow)?\d+[_\-]?c(?:ol)?\d+|"
    r"(?:tile|crop|patch)[_\-]?\d+(?:[_\-]\d+)?))*$",
    re.IGNORECASE,
)


def hold_out_specimens(specimens: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """Choose the specimens to hold out of training.

    Parameters
    ----------
    specimens : iterable of str
        Names of specimens; order and repetitions have no effect.
    fraction : float
        Fraction of the specimens to hold out, from 0 (none) to below 1. Of two or more specimens, at least one is held
        out and at least one is kept; of eight or more, at least three are held out, the number that a guarantee of 1
        false alarm per image requires. A single specimen is never held out.
    seed : int
        Seed; the same names, fraction and seed give the same choice.

    Returns
    -------
    frozenset of str
        Held-out specimens.

    Raises
    ------
    ConfigError
        If the fraction is out of its range.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"the fraction of specimens to hold out must be 0 or more and below 1, not {fraction}")
    names = sorted(set(specimens))
    if len(names) < 2 or fraction == 0:
        return frozenset()
    least = 3 if len(names) >= 8 else 1
    n_held_out = min(max(round(fraction * len(names)), least), len(names) - 1)
    return frozenset(names[i] for i in np.random.default_rng(seed).permutation(len(names))[:n_held_out])


def specimen_of(name: str, pattern: str | None = None) -> str:
    """Return the specimen of a file.

    Parameters
    ----------
    name : str
        Name of the file without its ending, such as "slide4_x000_y128".
    pattern : str or None
        Regular expression, searched in the name, whose only group is the specimen. By default the coordinate of a tile
        is removed from the end: "_x000_y128", "_r0_c1", "_tile12", "_crop3" and similar.

    Returns
    -------
    str
        Name of the specimen, such as "slide4".

    Raises
    ------
    ConfigError
        If the pattern is not a regular expression with one group, or does not match the name.

    Examples
    --------
    >>> specimen_of("slide4_x000_y128")
    'slide4'
    >>> specimen_of("2024-05-01 slide4 control", "(slide[0-9]+)")
    'slide4'
    """
    if pattern is None:
        match = _TILE_SUFFIX.match(name)
        return match[1] if match else name
    (found,) = search_group(pattern, [name])
    if found is None:
        raise ConfigError(f"the specimen pattern {pattern!r} does not match the file name '{name}'")
    return found
