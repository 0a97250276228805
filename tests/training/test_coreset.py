"""A coreset is half drawn, half far from what is there already."""

import numpy as np
import pytest
import torch

from napari_uflow.progress import run_chunks
from napari_uflow.training.coreset import coreset_in_chunks


def _coreset(vectors, n, seed=0):
    return run_chunks(coreset_in_chunks(vectors, n, np.random.default_rng(seed)))


@pytest.mark.parametrize("n", [0, 1, 7, 200, 300])
def test_as_many_as_asked_for_and_none_twice(n):
    chosen = _coreset(torch.randn(200, 12), n)
    assert len(chosen) == min(n, 200)
    assert chosen.dtype == torch.int64
    assert (chosen.diff() > 0).all()


def test_equal_vectors_are_not_chosen_twice():
    assert len(set(_coreset(torch.ones(50, 4), 20).tolist())) == 20


@pytest.mark.parametrize("seed", range(5))
def test_rare_vectors_are_chosen_and_frequent_ones_too(seed):
    generator = torch.Generator().manual_seed(seed)
    frequent = torch.randn(5000, 30, generator=generator)
    rare = 10 * torch.nn.functional.one_hot(torch.arange(10), 30).float()
    chosen = _coreset(torch.cat([frequent, rare]), 100, seed)
    assert set(range(5000, 5010)) <= set(chosen.tolist())
    assert (chosen < 5000).sum() == 90


def test_nothing_is_far_from_the_coreset():
    vectors = torch.rand(4000, 2)
    spread = torch.cdist(vectors, vectors[_coreset(vectors, 100)]).amin(1).max()
    drawn = torch.cdist(vectors, vectors[:100]).amin(1).max()
    assert spread < 0.75 * drawn


def test_the_seed_decides():
    vectors = torch.randn(500, 8)
    assert torch.equal(_coreset(vectors, 50), _coreset(vectors, 50))
    assert not torch.equal(_coreset(vectors, 50), _coreset(vectors, 50, seed=1))
