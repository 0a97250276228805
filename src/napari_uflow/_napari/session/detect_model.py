"""State of the Detect widget: the request, the accepted false alarms, and all values derived from them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_uflow._napari.session.detect_request import DetectRequest
from napari_uflow._napari.session.estimate import estimate_detection, speed_of
from napari_uflow._napari.session.job import Job
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.results import relabel, show_detections
from napari_uflow._napari.session.session import Session
from napari_uflow._napari.session.settings import read_settings, weights_folder
from napari_uflow._napari.session.targets import Target, detect_targets_steps
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.wording import counted

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_uflow.detection.result import Detection

__all__ = ["DetectModel", "counted_on"]

# Relabelling takes milliseconds for a plane; for a large stack it waits until the slider rests.
_MS_AT_LEAST, _MS_AT_MOST = 15, 400


class DetectModel(QObject):
    """Request, accepted false alarms, and the values that the Detect widget shows.

    Parameters
    ----------
    viewer : Viewer
        The viewer with the layers.
    session : Session
        Session of the viewer: trained model, results, jobs.
    false_alarms : float
        Initial accepted false alarms.
    parent : QObject
        The widget.

    Signals
    -------
    changed
        The request, the accepted false alarms, the results, the trained model or the state of the runner changed.
    """

    changed = Signal()

    def __init__(self, viewer: Viewer, session: Session, *, false_alarms: float, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._session = session
        self._request = DetectRequest()
        self._false_alarms = false_alarms
        self._speed = 1.0  # actual over estimated time of the last run
        self._relabelling = QTimer(self)
        self._relabelling.setSingleShot(True)
        self._relabelling.setInterval(_MS_AT_LEAST)
        self._relabelling.timeout.connect(self._relabel)
        for signal in (session.results_changed, session.model_changed, session.runner.state_changed):
            signal.connect(self.changed)

    # ---- request

    @property
    def request(self) -> DetectRequest:
        """Layers and parameters of the next detection."""
        return self._request

    def ask(self, request: DetectRequest) -> None:
        """Set another request."""
        self._request = request
        self.changed.emit()

    @property
    def false_alarms(self) -> float:
        """Accepted false alarms per image or stack."""
        return self._false_alarms

    def accept(self, false_alarms: float) -> None:
        """Accept another number of false alarms; the results are updated."""
        if false_alarms != self._false_alarms:
            self._false_alarms = false_alarms
            self._relabelling.start()
            self.changed.emit()

    def config(self) -> DetectionConfig:
        """Return the parameters of the next detection.

        Raises
        ------
        ConfigError
            If the form has an error.
        """
        if self._request.mistake:
            raise ConfigError(self._request.mistake)
        return self._request.config.replace(false_alarms=self._false_alarms)

    def targets(self) -> list[Target]:
        """Return the targets of the next detection.

        Raises
        ------
        ImageError
            If there are none.
        """
        return self._request.targets(self._viewer)

    # ---- derived values

    @property
    def is_ready(self) -> bool:
        """True if there is a model and an image."""
        return self._session.model is not None and self._request.names_images

    @property
    def counted_on(self) -> str:
        """Unit of the accepted false alarms in the results, or in the next one if there are none."""
        shown = {counted_on(result.planes[0][1]) for result in self._session.results.values()}
        return " or ".join(sorted(shown or {self.next_counted_on}))

    @property
    def next_counted_on(self) -> str:
        """Unit of the accepted false alarms in the next detection."""
        return self._request.counted_on(self._viewer)

    @property
    def last_found(self) -> tuple[Detection, ...]:
        """Detections of the newest result in the chosen image, or in any if the selected layers are chosen."""
        results = [r for r in self._session.results.values() if self._is_of_request(r)]
        return results[-1].detections if results else ()

    def _is_of_request(self, result: LayerDetection) -> bool:
        return self._request.scope == "selected" or result.image_in(self._viewer) is self._request.image

    def at_all_numbers(self) -> str:
        """Return how many regions of the newest result may be false, wherever the slider is; "" if nothing is known."""
        detections = self.last_found
        if not detections:
            return ""
        is_one = len(detections) == 1 or detections[0].guarantee.n_images == len(detections)
        n_regions = sum(len(found.regions) for found in detections)
        return detections[0].guarantee.at_all_numbers(n_regions if is_one else None)

    def next_to_confirm(self) -> str:
        """Return which images to confirm as normal next, if more specimens are needed for a guarantee; or ""."""
        model = self._session.model
        results = [result for result in self._session.results.values() if result.model is model]
        if model is None or not results:
            return ""
        from napari_uflow.evaluation.confirm import confirm_next

        images = [(result.image_name, result.detections[0].provenance.source) for result in results]
        try:
            plan = confirm_next(model, results[-1].detections[0].guarantee, images)
        except ConfigError:  # a pattern of specimens that takes too long
            return ""
        return "" if plan is None else plan.text()

    def counts(self) -> list[str]:
        """Return the number of regions of each result, one line each."""
        lines = []
        for result in self._session.results.values():
            counts = [len(found.regions) for found in result.detections]
            where = f" in {sum(n > 0 for n in counts)} of {len(counts)} planes" if len(counts) > 1 else ""
            edited = " detected; some were edited by hand" if result.is_edited else ""
            of_planes = f" ({result.n_unjudged} of {len(counts)} planes)" if len(counts) > 1 else ""
            unjudged = f"; ⚠ could not be judged{of_planes}" if result.n_unjudged else ""
            lines.append(f"'{result.labels.name}': {counted(sum(counts), 'region')}{where}{edited}{unjudged}")
        return lines

    def estimate(self) -> str:
        """Return an estimate of the next detection; "" if there is none."""
        model = self._session.model
        if model is None:
            return ""
        try:
            shapes = [plane.shape for target in self.targets() for plane in target.planes]
            return estimate_detection(shapes, model.config, self.config().tile).text(self._speed)
        except UFlowError:  # shown at the start of the detection
            return ""

    # ---- jobs

    def start(self) -> Job:
        """Start the requested detection.

        Raises
        ------
        UFlowError
            If there is no model or no image, the form has an error, or a job is running.
        """
        session, model, name = self._session, self._session.model, self._session.model_name
        if model is None:
            raise ConfigError("no model: train one or open a model file")
        targets, config = self.targets(), self.config()
        shapes = [plane.shape for target in targets for plane in target.planes]
        estimated, began = estimate_detection(shapes, model.config, config.tile).seconds, time.monotonic()
        place = session.path_of(model)
        options: dict[str, Any] = {"device": read_settings().device, "weights": weights_folder(), "model_path": place}
        job = session.runner.start(lambda: detect_targets_steps(model, targets, config, **options), title="Detecting")

        def show(found: Any) -> None:  # the session's viewer, because the widget may have been closed
            viewer = session.viewer
            if viewer is None:
                return
            for target, detections in zip(targets, found, strict=True):
                show_detections(viewer, session, target, detections, model_name=name, model=model)

        def compare(found: Any) -> None:  # noqa: ARG001
            self._speed = speed_of(began, estimated)

        job.finished.connect(compare)
        job.finished.connect(show)
        job.finished.connect(self._relabel_if_moved)
        return job

    def _relabel_if_moved(self, found: Any) -> None:  # noqa: ARG002
        """Apply a change of the slider during the job."""
        self._relabel()

    def _relabel(self) -> None:
        began = time.monotonic()
        for result in list(self._session.results.values()):
            if any(found.false_alarms != self._false_alarms for found in result.detections):
                relabel(self._session, result, self._false_alarms)
        took = 1000 * (time.monotonic() - began)
        self._relabelling.setInterval(int(min(max(_MS_AT_LEAST, 2 * took if took > 50 else 0), _MS_AT_MOST)))


def counted_on(found: Detection) -> str:
    """Return the unit of the accepted false alarms of a detection, "image" or "stack"."""
    return "stack" if found.config.n_sharing(found.n_planes) > 1 else "image"
