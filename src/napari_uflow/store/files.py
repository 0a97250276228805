"""Names of image files, and files that are written completely or not at all."""

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_uflow.errors import UFlowError

__all__ = ["atomic_path", "stem_of"]


def stem_of(path: Path) -> str:
    """Return the name of an image file without its ending, ".tif" or ".ome.tif"."""
    return path.stem.removesuffix(".ome").removesuffix(".OME") or path.stem


def _mode(target: Path) -> int:
    """Return the permissions of the file to replace, or those of a new one."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a temporary name to write to; the file is renamed when the block ends without an error.

    Readers of `path` see the previous file or the complete new one.

    Parameters
    ----------
    path : path-like
        File to write; an existing one is replaced.

    Yields
    ------
    Path
        Unused name in the same folder with the same ending. The file is removed if the block raises.

    Raises
    ------
    UFlowError
        If the folder does not exist, the disk is full, or the file cannot be replaced because another program has it
        open. (Every OSError of the block is reported as one of these.)
    """
    target = Path(path)
    if not os.path.isdir(target.parent):  # False for a name that is too long, too
        raise UFlowError(f"'{target}' cannot be written: there is no folder '{target.parent}'")
    if os.path.isdir(target):
        raise UFlowError(f"'{target}' cannot be written: it is a folder")
    # tempfile creates files that only their owner may read.
    temporary = target.with_name(f".{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        yield temporary
        # Some libraries write files that only their owner may read.
        temporary.chmod(_mode(target))
        os.replace(temporary, target)
    except OSError as error:
        raise UFlowError(
            f"'{target}' cannot be written ({error.strerror or error}); "
            "close it in other programs, or choose another place"
        ) from error
    finally:
        with suppress(OSError):  # there is none with a name that is too long
            temporary.unlink(missing_ok=True)
