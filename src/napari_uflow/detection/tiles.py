"""Score maps in tiles that fit the memory."""

from __future__ import annotations

from napari_uflow.config import SMALLEST_DETECTION_TILE, DetectionConfig
from napari_uflow.image.plane import Plane
from napari_uflow.model.inference import ScoreMaps, score_steps
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa.binomial import candidate_threshold
from napari_uflow.progress import Message, Steps, or_stop
from napari_uflow.system.devices import free_memory, is_out_of_memory, memory_for_tiles

__all__ = ["fitting_score_steps"]

# With a halo smaller than the flow requires the result depends on the tiles, which must not depend on the free memory.
_TILE_OF_CUT_HALO = 768


def fitting_score_steps(network: UFlow, model: TrainedModel, plane: Plane, config: DetectionConfig) -> Steps[ScoreMaps]:
    """Run the network in tiles of the configured size, halved as often as the memory requires.

    Parameters
    ----------
    network : UFlow
        Network in evaluation mode.
    model : TrainedModel
        Model of the network, for its intensity range.
    plane : Plane
        Image.
    config : DetectionConfig
        Tile and halo; with the method 'binomial', candidates are counted too.

    Raises
    ------
    Stopped
        If the job was asked to finish.
    """
    is_binomial = config.nfa == "binomial"
    threshold = candidate_threshold(config.binomial_probability_thr) if is_binomial else None
    is_cut = 0 <= config.halo < network.flow_halo
    tile = _first_tile(network, plane, config, is_cut=is_cut)
    while True:
        try:
            return (
                yield from score_steps(
                    network, model.intensity, plane, tile=tile, halo=config.halo, candidate_threshold=threshold
                )
            )
        except (RuntimeError, MemoryError) as error:
            if tile <= SMALLEST_DETECTION_TILE or not network.is_size_free or not is_out_of_memory(error):
                raise
        # After the handler: the error keeps the arrays that did not fit alive.
        free_memory(network.device)
        smaller = max(SMALLEST_DETECTION_TILE, tile // 2 // network.align * network.align)
        effect = "may change slightly, because the halo is cut" if is_cut else "is the same"
        text = (
            f"not enough memory for tiles of {tile} pixels: '{plane.title}' is read in tiles of {smaller}, which takes "
            f"longer; the result {effect}"
        )
        yield from or_stop(Message(text, warning=True))
        tile = smaller


def _first_tile(network: UFlow, plane: Plane, config: DetectionConfig, *, is_cut: bool) -> int:
    tile = config.tile
    if not tile:
        fits = network.tile_that_fits(plane.shape, memory_for_tiles(network.device))
        tile = _TILE_OF_CUT_HALO if is_cut else fits
    # Half of a tile larger than the image would be the same tile again.
    return max(SMALLEST_DETECTION_TILE, min(tile, -(-max(plane.shape) // network.align) * network.align))
