"""Uncompressed pixels are read like an array in memory; a file that is cut does not end the process."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_uflow.errors import ImageError
from napari_uflow.store.raw import RawPixels

SHAPE = (2, 4, 6, 3)


def made(folder: Path, dtype: str = ">u2") -> tuple[RawPixels, np.ndarray]:
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)
    (folder / "a.raw").write_bytes(b"head" + values.tobytes())
    return RawPixels(folder / "a.raw", dtype, SHAPE, 4), values


def keys() -> st.SearchStrategy[tuple[Any, ...]]:
    def part(n: int) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.integers(0, n - 1), st.builds(slice, st.integers(0, n), st.integers(0, n), st.integers(1, 3))
        )

    return st.tuples(*map(part, SHAPE))


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=keys())
def test_any_key(key: Any, tmp_path: Path) -> None:
    lazy, values = made(tmp_path)
    np.testing.assert_array_equal(lazy[key], values[key])


def test_partial_keys_and_wrong_ones(tmp_path: Path) -> None:
    lazy, values = made(tmp_path, "f4")
    for key in (0, slice(1, 2), (..., 1), (0, ..., slice(0, 2)), -1, ()):
        np.testing.assert_array_equal(lazy[key], values[key])
    for key in ((0,) * 5, 2, slice(None, None, -1)):
        with pytest.raises(IndexError):
            lazy[key]


def test_a_file_that_is_cut_or_gone_while_it_is_used(tmp_path: Path) -> None:
    lazy, _ = made(tmp_path)
    os.truncate(lazy.path, 100)
    with pytest.raises(ImageError, match=r"a\.raw' has changed since it was opened"):
        lazy[0, 0]
    cut = RawPixels(lazy.path, lazy.dtype, SHAPE, 4)
    with pytest.raises(ImageError, match=r"a\.raw' cannot be read; the file ends"):
        cut[1]
    lazy.path.unlink()
    with pytest.raises(ImageError, match=r"a\.raw' cannot be read \(No such file"):
        lazy[0]
