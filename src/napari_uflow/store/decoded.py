"""Memory of decoded pixels, shared by all open files."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy.typing as npt

__all__ = ["DECODED", "DecodedBlocks"]


class DecodedBlocks:
    """Blocks that were decoded last; the oldest ones are dropped. Several threads may use it.

    Parameters
    ----------
    max_bytes : int
        Most bytes that are kept, but at least the last block.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[tuple[int, Hashable], npt.NDArray[Any]] = OrderedDict()
        self._n_bytes = 0
        self._n_owners = 0
        self._lock = threading.RLock()  # the end of an owner may come while the lock is held

    def new_owner(self, owner: object) -> int:
        """Return a number for the blocks of an array, which are dropped when the array is."""
        with self._lock:
            self._n_owners += 1
            number = self._n_owners
        weakref.finalize(owner, self._drop, number).atexit = False
        return number

    def get(self, owner: int, key: Hashable, decode: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return a block of an owner, decoded if it is not kept."""
        with self._lock:
            if (owner, key) in self._blocks:
                self._blocks.move_to_end((owner, key))
                return self._blocks[owner, key]
        block = decode()
        block.setflags(write=False)  # it is given to every caller
        with self._lock:
            if (owner, key) not in self._blocks:  # another thread may have been faster
                self._blocks[owner, key] = block
                self._n_bytes += block.nbytes
            while self._n_bytes > self._max_bytes and len(self._blocks) > 1:
                self._n_bytes -= self._blocks.popitem(last=False)[1].nbytes
        return block

    def _drop(self, owner: int) -> None:
        with self._lock:
            for key in [k for k in self._blocks if k[0] == owner]:
                self._n_bytes -= self._blocks.pop(key).nbytes

    @property
    def n_bytes(self) -> int:
        """Bytes of the blocks that are kept."""
        return self._n_bytes


DECODED = DecodedBlocks(2**28)
"""Blocks of all files: a bound on each file would be none on a training of a thousand files."""
