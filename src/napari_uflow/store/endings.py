"""Endings of the names of saved files."""

from __future__ import annotations

from collections.abc import Sequence
from mimetypes import MimeTypes
from pathlib import PurePath

from napari_uflow.errors import ConfigError

__all__ = ["with_ending"]

_OTHERS = frozenset(
    (
        *(".czi", ".docx", ".geojson", ".jp2", ".lif", ".lsm", ".nd2", ".ndpi", ".npy", ".npz", ".parquet"),
        *(".safetensors", ".svs", ".webp", ".xlsx", ".yaml", ".zarr"),
    )
)
"""Endings of files that the standard library does not know."""


def with_ending(path: str, endings: Sequence[str]) -> str:
    """Return the name of a file with an ending that tells what it contains.

    Parameters
    ----------
    path : str
        Name that the user chose.
    endings : sequence of str
        Endings of this kind of file, such as (".tif", ".tiff"), in lower case; the first one is added to a name without
        ending. A dot does not make an ending: "at 0.5 um" has none.

    Raises
    ------
    ConfigError
        If the name has the ending of another kind of file.

    Examples
    --------
    >>> with_ending("at 0.5 um", [".tif", ".tiff"]), with_ending("a.TIFF", [".tif", ".tiff"])
    ('at 0.5 um.tif', 'a.TIFF')
    """
    name = PurePath(path).name
    if name.lower().endswith(tuple(endings)):
        return path
    ending = PurePath(name).suffix.lower()
    kind, packing = MimeTypes().guess_type(f"x{ending}")
    if kind or packing or ending in _OTHERS:
        wanted = " or ".join(endings)
        raise ConfigError(f"'{name}' has the ending of another kind of file: choose a name that ends with {wanted}")
    return f"{path}{endings[0]}"
