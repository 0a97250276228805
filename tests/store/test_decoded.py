"""What was decoded is kept up to one limit, and not longer than the array that needs it."""

import gc

import numpy as np
import pytest

from napari_uflow.store.decoded import DecodedBlocks


class Owner:
    pass


def test_the_oldest_blocks_are_dropped_and_the_last_one_is_kept() -> None:
    decoded, owner, calls = DecodedBlocks(100), Owner(), []

    def block(key: int, n_bytes: int = 40) -> None:
        decoded.get(number, key, lambda: calls.append(key) or np.zeros(n_bytes, np.uint8))

    number = decoded.new_owner(owner)
    for key in (0, 1, 0, 2, 0, 1):
        block(key)
    assert calls == [0, 1, 2, 1]
    assert decoded.n_bytes == 80
    block(9, 1000)
    block(9, 1000)
    assert calls == [0, 1, 2, 1, 9]
    assert decoded.n_bytes == 1000


def test_blocks_end_with_their_owner() -> None:
    decoded, owners = DecodedBlocks(1000), [Owner(), Owner()]
    for owner in owners:
        decoded.get(decoded.new_owner(owner), "all", lambda: np.zeros(40, np.uint8))
    assert decoded.n_bytes == 80
    owners.pop()
    del owner
    gc.collect()
    assert decoded.n_bytes == 40


def test_a_block_cannot_be_changed_by_the_one_who_gets_it() -> None:
    decoded, owner = DecodedBlocks(1000), Owner()
    block = decoded.get(decoded.new_owner(owner), 0, lambda: np.zeros(40, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        block[0] = 1
