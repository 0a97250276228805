"""The order of large libraries: beside a window, triton is loaded before torch, and with its own symbols."""

import os
import subprocess
import sys

import pytest

linux = pytest.mark.skipif(not hasattr(os, "RTLD_DEEPBIND"), reason="Linux only")

CODE = """
import sys, types
if "{window}":
    sys.modules["{window}"] = types.ModuleType("{window}")
flags = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "triton":
            flags.append(sys.getdlopenflags())
sys.meta_path.insert(0, Finder())
before = sys.getdlopenflags()
import napari_uflow
napari_uflow.DetectionConfig
assert sys.getdlopenflags() == before
print("triton" in sys.modules, bool(flags) and bool(flags[-1] & __import__("os").RTLD_DEEPBIND))
"""


@linux
@pytest.mark.parametrize(("window", "loaded"), [("", "False False"), ("napari", "True True"), ("OpenGL", "True True")])
def test_a_script_with_a_window_loads_triton_with_its_own_symbols(window, loaded):
    pytest.importorskip("triton")
    code = CODE.format(window=window)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == loaded, done.stderr
