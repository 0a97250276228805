"""Scripts that open a viewer and then use the public names."""

import subprocess
import sys

import pytest

CODE = """
import napari
viewer = napari.Viewer(show=False)
from napari_uflow import {name}
{use}
print("alive")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "use"), [("load_model", "load_model({path!r}).network()"), ("train", "train"), ("detect", "detect")]
)
def test_a_model_is_loaded_after_a_viewer_was_opened(tiny_model_file, name, use):
    code = CODE.format(name=name, use=use.format(path=str(tiny_model_file)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "alive" in done.stdout, (done.returncode, done.stderr[-500:])
