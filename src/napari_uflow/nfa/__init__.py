"""Number of false alarms: which regions of a map of latents are too surprising to be normal."""

from napari_uflow.nfa.counts import ALPHA, BETA, LOG10_BETA, log10_tests_for_any_size, log10_tests_published
from napari_uflow.nfa.segment import LevelRegions, combine_levels, label_mask, published_regions, significant_regions
from napari_uflow.nfa.significance import chernoff_log10_tail, chi2_log10_tail
from napari_uflow.nfa.tree import best_regions

__all__ = [
    "ALPHA",
    "BETA",
    "LOG10_BETA",
    "LevelRegions",
    "best_regions",
    "chernoff_log10_tail",
    "chi2_log10_tail",
    "combine_levels",
    "label_mask",
    "log10_tests_for_any_size",
    "log10_tests_published",
    "published_regions",
    "significant_regions",
]
