"""Layers in, values out: what the core needs of a layer, and the transform that puts a result on top of it.

Everything here runs in the thread of the window and returns values that hold arrays, never a layer. A result is
stacked like its image without the channel axis; :class:`Frame` says how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


__all__ = []

_AREAS = ("rectangle", "ellipse", "polygon")
