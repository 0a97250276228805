"""A lack of memory is known, whoever reports it."""

import pytest

from napari_uflow.system.devices import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("could not create a primitive"),  # oneDNN
        RuntimeError("could not create a memory object"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_lack_of_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes"), ValueError("out of memory"), OSError()])
def test_other_errors(error):
    assert not is_out_of_memory(error)
