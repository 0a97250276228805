from types import SimpleNamespace

import numba

from napari_uflow.nfa import compiled as module
from napari_uflow.nfa.compiled import compiled


def double(value):
    return 2 * value


def test_compiles_without_a_folder_to_write_to(monkeypatch):
    def njit_on_a_read_only_disk(*, cache=False, nogil=False):
        if cache:
            raise RuntimeError("cannot cache function 'double': no locator available")
        return numba.njit(nogil=nogil)

    monkeypatch.setattr(module, "numba", SimpleNamespace(njit=njit_on_a_read_only_disk))
    assert compiled(double)(21) == 42
