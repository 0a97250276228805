"""Loading torch into the process of a viewer: complete, once, and with the collector as it was."""

import subprocess
import sys

import pytest

CODE = """
import gc, sys, threading
gc.{state}()
from napari_uflow._napari.session.libraries import load_libraries
assert "torch" not in sys.modules
thread = threading.Thread(target=load_libraries)
thread.start()
thread.join()
assert gc.isenabled() == ("{state}" == "enable")
assert gc.get_freeze_count() == 0
import torch
assert float(torch.ones(3).sum()) == 3
assert {{"napari_uflow.training.train", "napari_uflow.detection.detect"}} <= set(sys.modules)
before = set(sys.modules)
load_libraries()
assert set(sys.modules) == before
print("loaded")
"""


@pytest.mark.slow
@pytest.mark.parametrize("state", ["enable", "disable"])
def test_libraries_are_loaded_in_a_worker(state):
    code = CODE.format(state=state)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "loaded", done.stderr
