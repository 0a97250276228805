"""Number of false alarms: which regions of a map of latents are too surprising to be normal."""

from napari_uflow.nfa.binomial import (
    binomial_log10_nfa,
    binomial_log10_tail,
    block_log10_tail,
    candidate_threshold,
)
from napari_uflow.nfa.calibrated import QQ_LEVELS, Calibration, CalibrationPicture
from napari_uflow.nfa.calibration import FEWEST_POSITIONS, MapCalibration, Tail, TooFewPositionsError
from napari_uflow.nfa.conformal import ConformalOffset, HeldOutField, counts_pictures, fields_needed
from napari_uflow.nfa.counts import ALPHA, BETA, LOG10_BETA, log10_tests_for_any_size, log10_tests_published
from napari_uflow.nfa.segment import (
    LevelRegions,
    combine_levels,
    combine_levels_in_pieces,
    count_thresholds,
    label_mask,
    label_mask_in_pieces,
    published_regions,
    significant_regions,
    significant_regions_in_pieces,
)
from napari_uflow.nfa.significance import chernoff_log10_tail, chi2_log10_tail
from napari_uflow.nfa.tree import best_regions

__all__ = [
    "ALPHA",
    "BETA",
    "Calibration",
    "CalibrationPicture",
    "ConformalOffset",
    "FEWEST_POSITIONS",
    "HeldOutField",
    "LOG10_BETA",
    "LevelRegions",
    "MapCalibration",
    "QQ_LEVELS",
    "Tail",
    "TooFewPositionsError",
    "best_regions",
    "binomial_log10_nfa",
    "binomial_log10_tail",
    "block_log10_tail",
    "candidate_threshold",
    "chernoff_log10_tail",
    "chi2_log10_tail",
    "combine_levels",
    "combine_levels_in_pieces",
    "count_thresholds",
    "counts_pictures",
    "fields_needed",
    "label_mask",
    "label_mask_in_pieces",
    "log10_tests_for_any_size",
    "log10_tests_published",
    "published_regions",
    "significant_regions",
    "significant_regions_in_pieces",
]
