"""Take the screenshots of the documentation: docs/images/NAME.png and NAME_light.png.

Run it where napari can open a window, or under a virtual screen: xvfb-run -a python tools/screenshots.py

It follows docs/napari.md on the sample: paint, train with the default settings, detect, slide, review, report, and
detect in files. It prints times and numbers of regions.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from qtpy.QtWidgets import QApplication, QDockWidget

# Settings and interrupted trainings of this user must not be in the images; napari reads this once.
os.environ["NAPARI_CONFIG"] = os.path.join(tempfile.mkdtemp(), "settings.yaml")

import napari

from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.worker import Outcome

FOLDER = Path(__file__).parents[1] / "docs" / "images"
SIZE = (1280, 860)
PANEL = 400
COLOURS = 256
"""Colours of the palette; a window has few, and the file is then a third as large."""


def wait(done: Callable[[], bool], seconds: float = 1200) -> None:
    """Process events until something is done."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("the window took too long")
        QApplication.processEvents()
        time.sleep(0.01)


def rest(seconds: float = 0.7) -> None:
    """Process events for a while."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end)


class Photographer:
    """A napari window, and the screenshots of it.

    Parameters
    ----------
    folder : Path
        Output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.viewer = napari.Viewer(show=True, show_welcome_screen=False)
        self.viewer.window.resize(*SIZE)
        self.session = session_of(self.viewer)
        self.docks: list[Any] = []
        rest()

    def shoot(self, name: str) -> None:
        """Save the window in the dark and in the light theme."""
        for theme, suffix in (("dark", ""), ("light", "_light")):
            self.viewer.theme = theme
            rest()
            shot = self.viewer.screenshot(canvas_only=False, flash=False)
            image = Image.fromarray(np.asarray(shot)[..., :3]).quantize(COLOURS, dither=Image.Dither.NONE)
            path = self.folder / f"{name}{suffix}.png"
            image.save(path, optimize=True)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
        self.viewer.theme = "dark"

    def open(self, name: str, width: int = PANEL) -> Any:
        """Open a widget as the menu does, and hide the others."""
        for dock in self.docks:
            dock.hide()
        began = time.monotonic()
        dock, widget = self.viewer.window.add_plugin_dock_widget("napari-uflow", name)
        print(f"{name} opened in {time.monotonic() - began:.2f} s")
        dock.show()
        if dock not in self.docks:
            self.docks.append(dock)
        rest(0.2)
        window = next(w for w in QApplication.topLevelWidgets() if w.findChildren(QDockWidget))
        window.resizeDocks([dock], [width], napari_orientation())
        rest(0.3)
        return widget

    def run(self, bar: Any, halfway: Callable[[], bool] | None = None, name: str = "") -> None:
        """Press the button of a job and wait for its end, with a screenshot halfway."""
        runner = self.session.runner
        began = time.monotonic()
        bar.button.click()
        if halfway is not None:
            wait(lambda: halfway() or runner.state is State.IDLE)
            self.shoot(name)
        wait(lambda: runner.state is State.IDLE)
        rest(0.3)
        title = bar.button.text()
        print(f"{title}: {runner.job.outcome.value} after {time.monotonic() - began:.0f} s; {bar.status.text()}")
        if bar.messages.text():
            print(bar.messages.text())
        if runner.job.outcome is not Outcome.DONE:
            raise SystemExit("a job failed")


def napari_orientation() -> Any:
    """Return the orientation of docks side by side."""
    from qtpy.QtCore import Qt

    return Qt.Orientation.Horizontal


def train(at: Photographer, model: Path | None) -> None:
    """Paint a normal area, and train."""
    viewer = at.viewer
    began = time.monotonic()
    viewer.open_sample("napari-uflow", "normal_fibres")
    viewer.reset_view()
    print(f"the sample opened in {time.monotonic() - began:.1f} s")
    widget = at.open("Train")
    viewer.dims.set_current_step(0, 0)
    widget.normal_images.new_area_button.click()
    (area,) = [layer for layer in viewer.layers if "normal area" in layer.name]
    area.brush_size = 90
    for row, col in ((70, 60), (80, 100), (100, 140), (130, 170), (160, 190)):
        area.paint((0, row, col), 1)
    widget.new_model.model_form.fields["tile"].value = 128
    rest(1)
    widget.estimate()
    at.shoot("mark")
    widget.new_model.model_form.fields["tile"].value = 256
    viewer.layers.remove(area)
    rest(1)
    widget.estimate()
    print(widget.estimate_label.text())
    if model is not None:
        at.session.open_model(model)
        return
    at.run(widget.job_bar, lambda: len(widget.plot.points) >= 3, "train")
    at.shoot("trained")


def detect(at: Photographer) -> None:
    """Detect in the sample with defects, and count hits and false regions."""
    viewer = at.viewer
    viewer.open_sample("napari-uflow", "defective_fibres")
    viewer.layers["Fibres, normal"].visible = False
    viewer.dims.set_current_step(0, 5)
    widget = at.open("Detect")
    at.shoot("detect_before")
    widget.image.set_layer(viewer.layers["Fibres, with defects"])
    at.run(widget.job_bar)
    (result,) = at.session.results.values()
    truth = viewer.layers["Fibres, truth"].data
    for value in (1.0, 0.1):
        widget.slider.set_value(value)
        wait(lambda value=value: next(iter(at.session.results.values())).planes[0][1].false_alarms == value)
        found = result.labels.data
        n_hit = sum(bool(found[truth == i].any()) for i in range(1, int(truth.max()) + 1))
        n_false = sum(not truth[found == i].any() for i in range(1, int(found.max()) + 1))
        print(f"{value:g} false alarms: {n_hit} of {truth.max()} defects, {n_false} false in {len(truth)} images")
    widget.slider.set_value(1.0)
    rest()
    viewer.dims.set_current_step(0, 5)
    at.shoot("detect")


def review(at: Photographer) -> None:
    """Review the table."""
    widget = at.open("Anomalies", 500)
    widget.table.choose(2)
    rest()
    widget.table.choose(len(widget.table.rows()) - 1)
    widget.mark_normal()
    widget.table.choose(0)
    at.shoot("anomalies")


def trust(at: Photographer) -> None:
    """Report accepted against observed false alarms."""
    widget = at.open("Trust report", 460)
    at.run(widget.job_bar)
    at.shoot("trust")


def batch(at: Photographer) -> None:
    """Detect in files."""
    from napari_uflow.store.tiff_writer import write_tiff

    stack = at.viewer.layers["Fibres, with defects"].data
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "fibres"
        folder.mkdir()
        for i, image in enumerate(stack[4:10]):
            write_tiff(folder / f"fibres {i:02d}.tif", image, "YX", pixel_size=(0.09, 0.09), unit="um")
        (folder / "notes.tif").write_text("no image")
        widget = at.open("Detect in files")
        widget.add([folder])
        at.run(widget.job_bar)
        widget.output.box.setText("/data/fibres/anomalies")
        at.shoot("batch")


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder to write to (%(default)s)")
    parser.add_argument("--model", type=Path, help="use this model instead of training")
    parser.add_argument("--save", type=Path, help="save the model")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    at = Photographer(options.output)
    train(at, options.model)
    if options.save is not None:
        at.session.save_model(options.save)
    detect(at)
    review(at)
    trust(at)
    batch(at)
    at.viewer.close()


if __name__ == "__main__":
    main()
