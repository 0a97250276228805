"""The one way in which this package compiles a function with numba."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["compiled"]

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """Compile a function at its first call, without the interpreter lock, and keep the machine code on disk.

    Parameters
    ----------
    function
        A module-level function in the part of Python that numba's ``njit`` takes.

    Returns
    -------
    callable
        The function with the same signature.

    Notes
    -----
    numba raises RuntimeError at decoration, so at import, when neither the package's folder nor the user's cache folder
    can be written; then the function is compiled once per process.
    """
    try:
        return cast(_Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast(_Function, numba.njit(nogil=True)(function))
