"""The form of the normal images: which layers to train on, and what is normal in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QFormLayout, QHBoxLayout, QVBoxLayout, QWidget

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
    "told by the axis names": "names",
    "one specimen": "one",
    "a specimen each": "each",
}


class NormalImagesForm(QWidget):
    """Choose the images to train on and what is normal in them.

    Parameters
    ----------
    viewer : Viewer
        The viewer whose layers are offered.
    watch : LayerWatch
        On its layer list.
    marked : MarkedNormal
        Regions marked normal in results, which are trained on too.
    channels : ChannelForm
        Channels of the images, chosen in another part of the panel.

    Signals
    -------
    changed
        Another choice was made, or a marked area was changed.
    refused : str
        Why something cannot be done.
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
        self.images.setToolTip(tooltip("Images to learn from. Every image that is ticked is used, all of its planes."))
        self.normal = LayerBox(watch, is_area, "the whole image")
        self.normal.setToolTip(
            tooltip("Only what a labels or shapes layer marks is learned as normal. A flat layer holds for all planes.")
        )
        self.new_area_button = push_button(
            "Paint...",
            self._new_area,
            "Make an empty labels layer on top of the first image that is ticked, ready to paint what is normal.",
        )
        self.ignore = LayerBox(watch, is_area, "nothing")
        self.ignore.setToolTip(
            tooltip("What a labels or shapes layer marks is not looked at in training: dirt, text, known structures.")
        )
        self.specimens = ChoiceBox(_SPECIMEN_RULES)
        self.specimens.setToolTip(
            tooltip(
                "Whether the planes of a stack are one specimen (depth, time) or separate ones. Whole specimens are "
                "held out of training to count false alarms. Told by the axis names: an axis called field, position, "
                "sample, specimen, scene, image or well has a specimen at each place."
            )
        )
        self.with_marked = QCheckBox()
        self.with_marked.setChecked(True)
        self.with_marked.setToolTip(
            tooltip(
                "Regions that were reported and that you called normal under Anomalies, with their surroundings, are "
                "learned together with the images that are ticked."
            )
        )
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        normal = QHBoxLayout()
        normal.addWidget(self.normal, 1)
        normal.addWidget(self.new_area_button)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Normal is", normal)
        form.addRow("Ignore", self.ignore)
        form.addRow("Planes are", self.specimens)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(heading("Normal images"))
        layout.addWidget(self.images)
        layout.addLayout(form)
        layout.addWidget(self.with_marked)

    def _connect(self) -> None:
        self.images.changed.connect(self.changed)
        for box in (self.normal, self.ignore, self.specimens):
            box.currentIndexChanged.connect(self._choice_changed)
        self.with_marked.toggled.connect(self._choice_changed)
        self._watch.changed.connect(self._watch_areas)
        self._marked.changed.connect(self._tell_marked)
        self._watch_areas()
        self._tell_marked()

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
            self.refused.emit("Tick the image whose normal area you want to paint.")
            return
        try:
            layer = add_normal_area(self._viewer, images[0], channel_axis=self._channels.channel_axis())
        except UFlowError as error:
            self.refused.emit(str(error))
            return
        self.normal.set_layer(layer)

    def name(self) -> str:
        """Return a name for what is trained on these images."""
        images = self.images.layers()
        return images[0].name if len(images) == 1 else f"{images[0].name} and {len(images) - 1} more"

    def recipe(self) -> Recipe:
        """Return which layers are chosen, and what is normal in them."""
        return Recipe.of(
            self.images.layers(),
            self.normal.value(),
            self.ignore.value(),
            specimens=self.specimens.value(),
            channel_axis=self._channels.channel_axis(),
            channels=self._channels.chosen(),
        )

    def choose(self, recipe: Recipe) -> None:
        """Choose the layers of a recipe, which are open."""
        self.images.set_layers([ref() for ref in recipe.images])
        self.normal.set_layer(recipe.normal and recipe.normal())
        self.ignore.set_layer(recipe.ignore and recipe.ignore())
        self.specimens.set_value(recipe.specimens)
        self._channels.axis.set_value(recipe.channel_axis)
        self._channels.channels.setText(", ".join(map(str, recipe.channels or ())))

    def regions(self) -> list[NormalRegion]:
        """Return what is normal in the chosen layers, and the regions marked normal in results.

        Raises
        ------
        ImageError
            If nothing is.
        """
        found = self.recipe().regions()
        return found + (self.marked_like(found) if self.with_marked.isChecked() else [])

    def marked_like(self, regions: list[NormalRegion]) -> list[NormalRegion]:
        """Return the regions marked normal in images with as many channels, and tell how many there are."""
        marked = self._marked.like(regions)
        self._tell_marked(len(marked))
        return marked

    def _tell_marked(self, n_like: int | None = None) -> None:
        n_like = len(self._marked) if n_like is None else n_like
        n_other = len(self._marked) - n_like
        others = f" ({n_other} in images with other channels cannot be learned with these)" if n_other else ""
        self.with_marked.setText(f"and {counted(n_like, 'region')} that you called normal{others}")
        self.with_marked.setVisible(len(self._marked) > 0)
