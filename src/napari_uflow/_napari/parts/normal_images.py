"""Form of the normal images: layers to train on, and the normal area in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFormLayout, QVBoxLayout, QWidget

from napari_uflow._napari.contributions.normal_area import add_normal_area
from napari_uflow._napari.layers.kinds import is_area, is_image_layer
from napari_uflow._napari.layers.watch import LayerWatch, while_alive
from napari_uflow._napari.parts.channels import ChannelForm
from napari_uflow._napari.parts.fields import ChoiceBox, tooltip
from napari_uflow._napari.parts.layer_choice import LayerBox, LayerChecks
from napari_uflow._napari.parts.panel import heading, push_button
from napari_uflow._napari.session.marked_normal import MarkedNormal
from napari_uflow._napari.session.recipe import Recipe
from napari_uflow.errors import UFlowError
from napari_uflow.image.region import NormalRegion
from napari_uflow.wording import counted

if TYPE_CHECKING:
    import napari.viewer

__all__ = ["NormalImagesForm"]

_SPECIMEN_RULES = {
    "decide by axis name": "names",
    "all from one specimen": "one",
    "each from a different specimen": "each",
}
_IMAGE_RULES = {
    "decide by name": "names",
    "all from one specimen": "one",
    "each from a different specimen": "each",
}


class NormalImagesForm(QWidget):
    """Choose the images to train on and the normal area in them.

    Parameters
    ----------
    viewer : Viewer
        The viewer with the layers.
    watch : LayerWatch
        Watch on its layer list.
    marked : MarkedNormal
        Regions marked normal in results, for training too.
    channels : ChannelForm
        Channels of the images, in another part of the panel.

    Signals
    -------
    changed
        The choice or a marked area changed.
    refused : str
        Reason why something cannot be done.
    """

    changed = Signal()
    refused = Signal(str)

    def __init__(
        self, viewer: napari.viewer.Viewer, watch: LayerWatch, marked: MarkedNormal, channels: ChannelForm
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._watch = watch
        self._marked = marked
        self._channels = channels
        self.images = LayerChecks(watch, is_image_layer)
        self.images.setToolTip(tooltip("Images to train on: all planes of every ticked image."))
        self.normal = LayerBox(watch, is_area, "whole image")
        self.normal.setToolTip(
            tooltip(
                "Labels or shapes layer that marks the normal parts; only these are trained on. A 2-D layer applies to "
                "all planes of a stack."
            )
        )
        self.new_area_button = push_button(
            "Paint normal area",
            self._new_area,
            "Add an empty labels layer on top of the first ticked image and start painting.",
        )
        self.ignore = LayerBox(watch, is_area, "nothing")
        self.ignore.setToolTip(
            tooltip("Labels or shapes layer that marks areas to leave out of training: dirt, text, known structures.")
        )
        self.specimens = ChoiceBox(_SPECIMEN_RULES)
        self.specimens.setToolTip(
            tooltip(
                "Planes from one specimen (depth, time) or from different ones. Whole specimens are held out of "
                "training to count false alarms on. Decide by axis name: an axis named field, position, sample, "
                "specimen, scene, image or well has a different specimen at each position."
            )
        )
        self.image_specimens = ChoiceBox(_IMAGE_RULES)
        self.image_specimens.setToolTip(
            tooltip(
                "Images from one specimen are held out of training together. Decide by name: names that differ only in "
                "a tile coordinate, such as slide1_x000_y128, belong to one specimen; for other names, enter a "
                "'Specimen pattern' under Advanced."
            )
        )
        self.with_marked = QCheckBox()
        self.with_marked.setChecked(True)
        self.with_marked.setToolTip(
            tooltip(
                "Regions that you marked normal in Anomalies, with their surroundings, are added to the ticked images."
            )
        )
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Normal area", self.normal)
        form.addRow("", self.new_area_button)
        form.addRow("Ignore", self.ignore)
        form.addRow("Separate images", self.image_specimens)
        form.addRow("Stack planes", self.specimens)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(heading("Normal images (free of anomalies)"))
        layout.addWidget(self.images)
        layout.addLayout(form)
        layout.addWidget(self.with_marked)

    def _connect(self) -> None:
        self.images.changed.connect(self.changed)
        for box in (self.normal, self.ignore, self.image_specimens, self.specimens):
            box.currentIndexChanged.connect(self._choice_changed)
        self.with_marked.toggled.connect(self._choice_changed)
        self._watch.changed.connect(self._watch_areas)
        self._marked.changed.connect(self._show_marked)
        self._watch_areas()
        self._show_marked()

    def _watch_areas(self) -> None:
        for layer in self._watch.layers(is_area):
            for name in ("paint", "set_data", "data"):
                if hasattr(layer.events, name):
                    getattr(layer.events, name).connect(self._choice_changed)

    @while_alive
    def _choice_changed(self, event: Any = None) -> None:  # noqa: ARG002 - signals of Qt and of napari come here
        self.changed.emit()

    def _new_area(self) -> None:
        images = self.images.layers()
        if not images:
            self.refused.emit("Tick the image to paint on first.")
            return
        try:
            layer = add_normal_area(self._viewer, images[0], channel_axis=self._channels.channel_axis())
        except UFlowError as error:
            self.refused.emit(str(error))
            return
        self.normal.set_layer(layer)

    def name(self) -> str:
        """Return a name for a model of these images."""
        images = self.images.layers()
        return images[0].name if len(images) == 1 else f"{images[0].name} and {len(images) - 1} more"

    def recipe(self) -> Recipe:
        """Return the chosen layers."""
        return Recipe.of(
            self.images.layers(),
            self.normal.value(),
            self.ignore.value(),
            specimens=self.specimens.value(),
            image_specimens=self.image_specimens.value(),
            channel_axis=self._channels.channel_axis(),
            channels=self._channels.chosen(),
        )

    def choose(self, recipe: Recipe) -> None:
        """Choose the layers of a recipe; they must be open."""
        self.images.set_layers([ref() for ref in recipe.images])
        self.normal.set_layer(recipe.normal and recipe.normal())
        self.ignore.set_layer(recipe.ignore and recipe.ignore())
        self.specimens.set_value(recipe.specimens)
        self.image_specimens.set_value(recipe.image_specimens)
        self._channels.axis.set_value(recipe.channel_axis)
        self._channels.channels.setText(", ".join(map(str, recipe.channels or ())))

    def regions(self) -> list[NormalRegion]:
        """Return the normal regions of the chosen layers, and the regions marked normal in results.

        Raises
        ------
        ImageError
            If there are none.
        """
        found = self.recipe().regions()
        return found + (self.marked_like(found) if self.with_marked.isChecked() else [])

    def marked_like(self, regions: list[NormalRegion]) -> list[NormalRegion]:
        """Return the regions marked normal in images with as many channels, and show their number."""
        marked = self._marked.like(regions)
        self._show_marked(len(marked))
        return marked

    def _show_marked(self, n_like: int | None = None) -> None:
        n_like = len(self._marked) if n_like is None else n_like
        n_other = len(self._marked) - n_like
        others = f" ({n_other} more with other channels cannot be used)" if n_other else ""
        self.with_marked.setText(f"Add {counted(n_like, 'region')} marked normal{others}")
        self.with_marked.setVisible(len(self._marked) > 0)
