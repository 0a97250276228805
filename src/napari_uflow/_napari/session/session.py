"""State shared by the dock widgets of a viewer: the active model, the results, and the running job."""

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
from napari_uflow._napari.session.runner import JobRunner
from napari_uflow.errors import ConfigError, OverwriteError
from napari_uflow.progress import Message, Steps
from napari_uflow.store.endings import with_ending

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

    from napari_uflow._napari.session.recipe import Recipe
    from napari_uflow.model.uflow import TrainedModel
from napari_uflow.system.libraries import make_torch_safe

__all__ = ["Session", "session_of"]

# One session per viewer, removed with its viewer; a viewer has no public place for it.
_SESSIONS: dict[int, Session] = {}


class Session(QObject):
    """State shared by the widgets of one viewer.

    Signals
    -------
    model_changed
        The active model, its name or its file changed.
    results_changed
        A result was added or changed, or its labels layer was removed.
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
        self._paths: list[tuple[weakref.ref[TrainedModel], Path]] = []  # of all models with a file
        self._recipe: Recipe | None = None
        self._results: dict[Labels, LayerDetection] = {}
        viewer.layers.events.removed.connect(self._forget_removed)

    @property
    def viewer(self) -> Viewer | None:
        """The viewer; None once it is closed."""
        return self._viewer()

    @property
    def model(self) -> TrainedModel | None:
        """The active model."""
        return self._model

    @property
    def model_name(self) -> str:
        """Name of the model; "" without one."""
        return self._model_name

    @property
    def model_path(self) -> Path | None:
        """File of the model; None for an unsaved one."""
        return self._model_path

    @property
    def recipe(self) -> Recipe | None:
        """Layers that the model was trained on in this viewer; None for a model from a file."""
        return self._recipe

    def set_model(
        self,
        model: TrainedModel | None,
        name: str = "",
        path: str | Path | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """Make a model the active one, or none."""
        self._model = model
        self._model_name = name if model is not None else ""
        self._model_path = Path(path) if path is not None and model is not None else None
        self._recipe = recipe if model is not None else None
        self._note_path()
        self.model_changed.emit()

    def take_model_of(self, job: Job, name: str, recipe: Recipe | None = None) -> None:
        """Make the model that a job returns the active one; without one the previous model stays active."""
        job.finished.connect(lambda model: self.set_model(model, name, recipe=recipe))

    def open_model(self, path: str | Path) -> None:
        """Read a model file and make it the active model; on an error the previous model stays active.

        Raises
        ------
        ModelFileError
            If the file is not a readable model.
        """
        make_torch_safe()
        from napari_uflow.store.checkpoint import load_model

        path = Path(path)
        self.set_model(load_model(path), path.stem, path)

    def start_opening(self, path: str | Path, *, name: str = "") -> Job:
        """Read a model file as a job, which does not block the window, and make it the active model.

        Parameters
        ----------
        path : path
            The file.
        name : str
            Name of the model if its file will be deleted; by default the model is named after its file.

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
        """Write the active model to a file, atomically, and return its path with its ending.

        Raises
        ------
        OverwriteError
            If the file exists and is not a model, or was not named with its suffix: the user has not agreed to replace
            it.
        UFlowError
            If there is no model, or the file cannot be written.
        """
        if self._model is None:
            raise ConfigError("no model to save: train one or open a model file")
        make_torch_safe()
        from napari_uflow.store.checkpoint import save_model

        asked = Path(path)
        path = Path(with_ending(str(asked), [".safetensors"]))
        if path != asked and path.exists():
            raise OverwriteError(f"'{path}' exists; to replace it, choose it with its ending")
        save_model(path, self._model)
        self._model_name, self._model_path = path.stem, path
        self._note_path()
        self.model_changed.emit()
        return path

    def _note_path(self) -> None:
        """Note the file of the active model; it replaces that of another model in the same place."""
        if self._model is None or self._model_path is None:
            return
        self._paths = [
            (ref, path)
            for ref, path in self._paths
            if ref() is not None and ref() is not self._model and path != self._model_path
        ]
        self._paths.append((weakref.ref(self._model), self._model_path))

    def path_of(self, model: TrainedModel) -> Path | None:
        """Return the file of a model, which may no longer be the active one; None for an unsaved one."""
        return next((path for ref, path in self._paths if ref() is model), None)

    @property
    def results(self) -> Mapping[Labels, LayerDetection]:
        """Results by their labels layer, the oldest first."""
        return MappingProxyType(self._results)

    def set_result(self, result: LayerDetection) -> None:
        """Add a result, or replace the result of the same labels layer."""
        self._results[bare(result.labels)] = result
        self.results_changed.emit()

    def result_of(self, layer: Any) -> LayerDetection | None:
        """Return the result that a layer (labels, heatmap or NFA) belongs to, or None."""
        layer = bare(layer)
        for result in self._results.values():
            if layer is not None and layer in (result.labels, result.heatmap, result.log10_nfa):
                return result
        return None

    def _forget_removed(self, event: Any) -> None:
        if self._results.pop(bare(event.value), None) is not None:
            self.results_changed.emit()


def session_of(viewer: Viewer) -> Session:
    """Return the session of a viewer; one object for all its widgets."""
    viewer = bare(viewer)
    key = id(viewer)
    if key not in _SESSIONS:
        _SESSIONS[key] = Session(viewer)
        weakref.finalize(viewer, _SESSIONS.pop, key, None)
    return _SESSIONS[key]
