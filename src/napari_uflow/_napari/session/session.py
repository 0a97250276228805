"""What the dock widgets of one viewer share: the model, what was detected with it, and the one job that may run."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_uflow._napari.layers.axes import bare
from napari_uflow._napari.session.job import Job
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.libraries import make_torch_safe
from napari_uflow._napari.session.runner import JobRunner
from napari_uflow.errors import ConfigError
from napari_uflow.progress import Message, Steps

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

    from napari_uflow._napari.session.recipe import Recipe
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["Session", "session_of"]

# One session per viewer; it goes with its viewer. There is no public place on a viewer to keep it.
_SESSIONS: dict[int, Session] = {}


class Session(QObject):
    """What the widgets of one viewer share.

    Signals
    -------
    model_changed
        Another model is active, or none.
    results_changed
        A detection was added or changed, or a layer of one was removed.
    """

    model_changed = Signal()
    results_changed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.runner = JobRunner()
        self._viewer = weakref.ref(viewer)
        self._model: TrainedModel | None = None
        self._model_name = ""
        self._model_path: Path | None = None
        self._recipe: Recipe | None = None
        self._results: dict[Labels, LayerDetection] = {}
        viewer.layers.events.removed.connect(self._forget_removed)

    @property
    def viewer(self) -> Viewer | None:
        """The viewer; None once it is gone."""
        return self._viewer()

    @property
    def model(self) -> TrainedModel | None:
        """The active model."""
        return self._model

    @property
    def model_name(self) -> str:
        """What the user calls the model; "" where there is none."""
        return self._model_name

    @property
    def model_path(self) -> Path | None:
        """The file of the model; None for one that was not saved."""
        return self._model_path

    @property
    def recipe(self) -> Recipe | None:
        """What the model was trained on in this viewer; None for one from a file."""
        return self._recipe

    def set_model(
        self,
        model: TrainedModel | None,
        name: str = "",
        path: str | Path | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """Make a model the active one."""
        self._model = model
        self._model_name = name if model is not None else ""
        self._model_path = Path(path) if path is not None and model is not None else None
        self._recipe = recipe if model is not None else None
        self.model_changed.emit()

    def take_model_of(self, job: Job, name: str, recipe: Recipe | None = None) -> None:
        """Make the model that a job will return the active one; the previous one stays if it returns none."""
        job.finished.connect(lambda model: self.set_model(model, name, recipe=recipe))

    def open_model(self, path: str | Path) -> None:
        """Read a model file and make it the active model; the previous one stays if that fails.

        Raises
        ------
        ModelFileError
            If the file is not a model.
        """
        make_torch_safe()
        from napari_uflow.store.checkpoint import load_model

        path = Path(path)
        self.set_model(load_model(path), path.stem, path)

    def start_opening(self, path: str | Path, *, name: str = "") -> Job:
        """Read a model file as a job, which does not hold up the window, and make it the active model.

        Parameters
        ----------
        path : path
            The file.
        name : str
            What to call the model if the file is not to be its place: one that will be removed.

        Raises
        ------
        JobError
            If a job is running.
        """
        path = Path(path)

        def steps() -> Steps[TrainedModel]:
            yield Message("Opening the model")
            from napari_uflow.store.checkpoint import load_model

            return load_model(path)

        job = self.runner.start(steps, title="Opening")
        place = None if name else path
        job.finished.connect(lambda model: self.set_model(model, name or path.stem, place))
        return job

    def save_model(self, path: str | Path) -> Path:
        """Write the active model to a file, whole or not at all, and return its path (with its ending).

        Raises
        ------
        UFlowError
            If there is no model, or the file cannot be written.
        """
        if self._model is None:
            raise ConfigError("there is no model to save: train one or open one first")
        make_torch_safe()
        from napari_uflow.store.checkpoint import save_model

        path = Path(path)
        if path.suffix != ".safetensors":
            path = path.with_name(path.name + ".safetensors")
        save_model(path, self._model)
        self._model_name, self._model_path = path.stem, path
        self.model_changed.emit()
        return path

    @property
    def results(self) -> Mapping[Labels, LayerDetection]:
        """What was detected, by the labels layer that shows it, the oldest first."""
        return MappingProxyType(self._results)

    def set_result(self, result: LayerDetection) -> None:
        """Add what was detected, or replace what the labels layer showed before."""
        self._results[bare(result.labels)] = result
        self.results_changed.emit()

    def result_of(self, layer: Any) -> LayerDetection | None:
        """Return the detection that a layer (labels, heatmap or NFA) shows, or None."""
        layer = bare(layer)
        for result in self._results.values():
            if layer is not None and layer in (result.labels, result.heatmap, result.log10_nfa):
                return result
        return None

    def _forget_removed(self, event: Any) -> None:
        if self._results.pop(bare(event.value), None) is not None:
            self.results_changed.emit()


def session_of(viewer: Viewer) -> Session:
    """Return the session of a viewer, the same one for all its widgets."""
    viewer = bare(viewer)
    key = id(viewer)
    if key not in _SESSIONS:
        _SESSIONS[key] = Session(viewer)
        weakref.finalize(viewer, _SESSIONS.pop, key, None)
    return _SESSIONS[key]
