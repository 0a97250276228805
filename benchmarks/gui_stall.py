"""Longest freeze of the window during training and detection, and response time of Stop.

    xvfb-run -a python benchmarks/gui_stall.py [--steps 30]

A timer in the main thread ticks every 5 ms; the longest time between two ticks is the longest time that a click would
have waited. Target: below 100 ms during a job, and the end of the job within 1 s of Stop (for training, the end of its
last step; the calibration that follows keeps the model, and its time is printed too).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication

os.environ["NAPARI_CONFIG"] = os.path.join(tempfile.mkdtemp(), "settings.yaml")

import napari

from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import session_of

_TICK_MS = 5
_WANTED = 0.1


class Stopwatch:
    """Timer in the main thread that records the times between its ticks.

    Parameters
    ----------
    what : callable
        Returns the current activity; printed for the times that are too long.
    """

    def __init__(self, what: Callable[[], str]) -> None:
        self.gaps: list[float] = []
        self.late: Counter[str] = Counter()
        self._what = what
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start(_TICK_MS)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        if self.gaps[-1] > _WANTED:
            self.late[self._what()] += 1
        self._last = now

    def watch(self, name: str, done: Callable[[], bool], seconds: float = 600) -> None:
        """Process events until something is done, and print the times between ticks."""
        QApplication.processEvents()
        self.gaps.clear()
        self.late.clear()
        self._last = began = time.perf_counter()
        while not done():
            QApplication.processEvents()
            time.sleep(0.0005)
            if time.perf_counter() - began > seconds:
                raise TimeoutError(name)
        gaps = 1000 * np.array([*self.gaps, time.perf_counter() - self._last])
        late = ", ".join(f"{n} in {what}" for what, n in self.late.items())
        print(
            f"{name:<48}{time.perf_counter() - began:>8.1f} s{np.quantile(gaps, 0.99):>8.0f} ms{gaps.max():>8.0f} ms"
            f"   {late}",
            flush=True,
        )


def after(seconds: float) -> Callable[[], bool]:
    """Return a function that tells whether this many seconds have passed."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="steps of the training (%(default)s)")
    options = parser.parse_args()
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(1200, 800)
    session = session_of(viewer)
    runner = session.runner

    def what() -> str:
        if runner.state is State.IDLE:
            return "the window itself"
        running = runner.job.running
        return "the start" if running is None else running.phase

    clock = Stopwatch(what)
    has_settled = after(3)
    while not has_settled():
        QApplication.processEvents()

    print(f"{'':<48}{'':>10}{'99 %':>11}{'longest':>11}   longer than 100 ms")
    clock.watch("nothing", after(4))
    began = time.perf_counter()
    viewer.open_sample("napari-uflow", "normal_fibres")
    viewer.open_sample("napari-uflow", "defective_fibres")
    print(f"both samples opened in {time.perf_counter() - began:.1f} s")
    widgets: dict[str, Any] = {}
    for name in ("Train", "Detect", "Anomalies", "Detect in files", "Trust report"):
        began = time.perf_counter()
        _, widgets[name] = viewer.window.add_plugin_dock_widget("napari-uflow", name, tabify=True)
        QApplication.processEvents()
        print(f"{name} opened in {1000 * (time.perf_counter() - began):.0f} ms")

    def is_idle() -> bool:
        return runner.state is State.IDLE

    train, detect = widgets["Train"], widgets["Detect"]
    train.normal_images.images.set_layers([viewer.layers["Fibres, normal"]])
    train.new_model.training_form.fields["steps"].value = options.steps
    clock.watch("the estimate", after(2))

    train.job_bar.button.click()
    points = train.plot.points
    clock.watch("training: libraries, features, first steps", lambda: len(train.plot.points) > len(points) or is_idle())
    clock.watch("training: the rest, calibration, saving", is_idle)
    print(f"    {train.job_bar.status.text()}")

    def stop(name: str, bar: Any, is_far: Callable[[], bool]) -> None:
        bar.button.click()
        clock.watch(f"{name}: until it is stopped", lambda: is_far() or is_idle())
        phases: list[tuple[float, str]] = []
        job = runner.job
        began = time.perf_counter()
        job.progress.connect(lambda running: phases.append((time.perf_counter() - began, running.phase)))
        bar.button.click()
        shown = time.perf_counter() - began
        clock.watch(f"{name}: after Stop", is_idle)
        total = time.perf_counter() - began
        last = next((t for t, phase in phases if phase not in ("Training", "Computing features")), total)
        print(f"    Stop: shown after {1000 * shown:.0f} ms; last step {last:.1f} s, all {total:.1f} s after it")

    train.new_model.training_form.fields["steps"].value = 1000
    stop("training", train.job_bar, lambda: len(train.plot.points) > 0)

    detect.image.set_layer(viewer.layers["Fibres, with defects"])
    detect.job_bar.button.click()
    clock.watch("detecting in 12 images, and showing them", is_idle)
    large = np.tile(viewer.layers["Fibres, with defects"].data[0], (8, 8))
    viewer.add_image(large, name="large", scale=(0.09, 0.09), units=("um", "um"))
    detect.image.set_layer(viewer.layers["large"])
    detect.job_bar.button.click()
    clock.watch("detecting in 2048 x 2048, and showing it", is_idle)
    stop("detecting", detect.job_bar, lambda: runner.job.running is not None and runner.job.running.done > 0)
    for value in (10, 0.1, 1):
        detect.slider.set_value(value)
    clock.watch("the slider, both results", after(3))
    viewer.close()


if __name__ == "__main__":
    main()
