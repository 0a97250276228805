"""Draw the pictures of the dock widgets for the documentation: docs/images/NAME.png and NAME_light.png.

Run it where napari can open a window, or under a virtual screen: xvfb-run -a python tools/screenshots.py
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QApplication

# Neither the settings of this user nor a model left behind belong into the pictures; napari reads this once.
os.environ["NAPARI_CONFIG"] = os.path.join(tempfile.mkdtemp(), "settings.yaml")

import napari
from napari_uflow._napari.detect_widget import DetectWidget
from napari_uflow._napari.jobs import State
from napari_uflow._napari.session import session_of
from napari_uflow._napari.train_widget import TrainWidget

FOLDER = Path(__file__).parents[1] / "docs" / "images"
SIZE = (1240, 860)


def wait(done: Callable[[], bool], seconds: float = 600) -> None:
    """Let the window live until something is done."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("the window took too long")
        QApplication.processEvents()
        time.sleep(0.01)


def rest(seconds: float = 1.0) -> None:
    """Let the window live for a while."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end)


def shoot(viewer: napari.Viewer, name: str, folder: Path) -> None:
    """Save the window in the dark and in the light theme."""
    for theme, suffix in (("dark", ""), ("light", "_light")):
        viewer.theme = theme
        rest()
        viewer.screenshot(str(folder / f"{name}{suffix}.png"), canvas_only=False, flash=False)
    viewer.theme = "dark"


def dock(viewer: napari.Viewer, widget: Any, name: str) -> None:
    """Put a widget at the right side of the window."""
    viewer.window.add_dock_widget(widget, name=name, area="right")
    widget.setMinimumWidth(340)


def train(viewer: napari.Viewer, folder: Path) -> None:
    """Train on the sample, with a picture while it runs."""
    viewer.open_sample("napari-uflow", "normal_fibres")
    widget = TrainWidget(viewer)
    dock(viewer, widget, "Train")
    widget.preset.set_value("fast")
    widget.model_form.fields["tile"].setValue(128)
    for name, value in {"steps": 40, "batch_size": 2, "check_every": 2, "patience": 30}.items():
        widget.training_form.fields[name].setValue(value)
    rest()
    widget.estimate()
    runner = session_of(viewer).runner
    widget.job_bar.button.click()
    wait(lambda: len(widget.plot.points) >= 8 or runner.state is State.IDLE)
    shoot(viewer, "train", folder)
    wait(lambda: runner.state is State.IDLE)
    print("train:", runner.job.outcome, widget.job_bar.status.text(), widget.job_bar.messages.text())
    viewer.window.remove_dock_widget(widget)


def detect(viewer: napari.Viewer, folder: Path) -> None:
    """Detect in the sample with defects."""
    viewer.layers.clear()
    viewer.open_sample("napari-uflow", "defective_fibres")
    viewer.layers["Fibres, truth"].visible = False
    widget = DetectWidget(viewer)
    dock(viewer, widget, "Detect")
    widget.image.set_layer(viewer.layers["Fibres, with defects"])
    runner = session_of(viewer).runner
    widget.job_bar.button.click()
    wait(lambda: runner.state is State.IDLE)
    print("detect:", runner.job.outcome, widget.job_bar.status.text(), widget.job_bar.messages.text())
    (result,) = session_of(viewer).results.values()
    counts = [len(found.regions) for found in result.detections]
    viewer.dims.set_current_step(0, counts.index(max(counts)))
    shoot(viewer, "detect", folder)


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder to write to (%(default)s)")
    parser.add_argument("--model", type=Path, help="detect with this model, not with the one trained for the picture")
    options = parser.parse_args()
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(*SIZE)
    rest()
    train(viewer, folder)
    if options.model is not None:
        session_of(viewer).open_model(options.model)
    detect(viewer, folder)
    viewer.close()


if __name__ == "__main__":
    main()
