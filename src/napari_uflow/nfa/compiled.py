"""Compilation with numba."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["compiled"]

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """Compile a function at its first call, without the interpreter lock, and cache the machine code on disk.

    Parameters
    ----------
    function : callable
        Module-level function in the subset of Python that numba's ``njit`` supports.

    Returns
    -------
    callable
        The function with the same signature.

    Notes
    -----
    numba raises RuntimeError at decoration, hence at import, if neither the package's folder nor the user's cache
    folder is writable; the function is then compiled once per process.
    """
    try:
        return cast(_Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast(_Function, numba.njit(nogil=True)(function))
