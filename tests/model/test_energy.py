"""Energies, heatmap and training loss, against numbers that can be worked out by hand."""

import math

import pytest
import torch

from napari_uflow.model.energy import bounded_energy, energy, likelihood_heatmap, log_variance, negative_log_likelihood


def latents(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = [torch.randn(batch, c, n, n + 2, generator=generator) for c, n in ((3, 8), (5, 4))]
    ln_det = [torch.randn(batch, n, n + 2, generator=generator) for n in (8, 4)]
    return z, ln_det


def test_energy_by_hand():
    z = torch.tensor([[[[1.0, 0.0]], [[3.0, 2.0]]]])
    assert energy(z).tolist() == [[[5.0, 2.0]]]


def test_loss_by_hand():
    z = [torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]]), torch.tensor([[[[2.0]]]])]
    ln_det = [torch.tensor([[[0.5, 1.0]]]), torch.tensor([[[-1.0]]])]
    # (1 + 9) / 2 - 0.5, (4 + 0) / 2 - 1, 4 / 2 + 1
    loss, n_dims = negative_log_likelihood(z, ln_det)
    assert float(loss) == pytest.approx(4.5 + 1 + 3)
    assert int(n_dims) == 5
    is_normal = [torch.tensor([[[False, True]]]), torch.tensor([[[True]]])]
    loss, n_dims = negative_log_likelihood(z, ln_det, is_normal)
    assert float(loss) == pytest.approx(1 + 3)
    assert int(n_dims) == 3


def test_a_mask_of_everything_changes_nothing():
    z, ln_det = latents()
    everywhere = [torch.ones_like(part, dtype=torch.bool) for part in ln_det]
    for one, other in zip(
        negative_log_likelihood(z, ln_det), negative_log_likelihood(z, ln_det, everywhere), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_loss_per_dimension_does_not_depend_on_the_size_of_the_batch():
    z, ln_det = latents()
    loss, n_dims = negative_log_likelihood(z, ln_det)
    for n in (2, 8):
        many, n_many = negative_log_likelihood([x.repeat(n, 1, 1, 1) for x in z], [x.repeat(n, 1, 1) for x in ln_det])
        assert float(many / n_many) == pytest.approx(float(loss / n_dims), rel=1e-5)


def test_what_does_not_count_may_be_infinite():
    z, ln_det = latents()
    is_normal = [torch.rand(part.shape, generator=torch.Generator().manual_seed(1)) < 0.5 for part in ln_det]
    expected, _ = negative_log_likelihood(z, ln_det, is_normal)
    for part, determinant, normal in zip(z, ln_det, is_normal, strict=True):
        part.movedim(1, -1)[~normal] = math.inf
        determinant[~normal] = math.nan
    z = [part.requires_grad_() for part in z]
    loss, _ = negative_log_likelihood(z, ln_det, is_normal)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for part, normal in zip(z, is_normal, strict=True):
        inside = part.grad.movedim(1, -1)[normal]
        torch.testing.assert_close(inside, part.detach().movedim(1, -1)[normal])


def test_nothing_normal_costs_nothing():
    z, ln_det = latents()
    loss, n_dims = negative_log_likelihood(z, ln_det, [torch.zeros_like(part, dtype=torch.bool) for part in ln_det])
    assert (float(loss), int(n_dims)) == (0, 0)


def test_heatmap_of_constant_energies():
    heatmap = likelihood_heatmap([torch.full((2, 8, 12), 0.7), torch.full((2, 4, 6), 3.0)], (32, 48))
    expected = 1 - (math.exp(-0.35) + math.exp(-1.5)) / 2
    torch.testing.assert_close(heatmap, torch.full((2, 32, 48), expected))


def test_heatmap_is_between_0_and_1_and_finite_for_any_energy():
    generator = torch.Generator().manual_seed(0)
    energies = [torch.rand(1, n, n, generator=generator) * 10 for n in (8, 4)]
    energies[0][0, 2, 3] = math.inf
    energies[0][0, 5, 5] = 3e38
    energies[1][0, 0, 0] = 0
    heatmap = likelihood_heatmap(energies, (32, 32))
    assert bool(torch.isfinite(heatmap).all())
    assert float(heatmap.min()) >= 0
    assert float(heatmap.max()) <= 1


def test_heatmap_rises_with_energy_and_lies_where_the_energy_is():
    energies = [torch.ones(1, 8, 8), torch.ones(1, 4, 4)]
    before = likelihood_heatmap(energies, (32, 32))
    energies[0][0, 2, 5] = 50.0
    after = likelihood_heatmap(energies, (32, 32))
    assert bool((after >= before).all())
    row, col = divmod(int(after.argmax()), 32)
    assert (row // 4, col // 4) == (2, 5)
    # half-pixel geometry: the four central pixels of a position are alike
    torch.testing.assert_close(after[0, 9:11, 21:23], after[0, 9, 21].expand(2, 2))


def test_the_log_variance_is_that_of_the_geometric_mean_of_the_variances():
    # z = x / sigma has the log-determinant -sum(log(sigma))
    sigma = torch.tensor([0.5, 2.0, 3.0])
    ln_det = -sigma.log().sum().reshape(1, 1, 1)
    torch.testing.assert_close(log_variance(ln_det, 3).squeeze(), (sigma**2).log().mean())


def test_bounded_energy_grows_with_the_logarithm():
    z = torch.tensor([0.0, 1.0, 1e9, math.inf]).reshape(1, 2, 1, 2)
    values = bounded_energy(z).squeeze()
    torch.testing.assert_close(values[0], torch.tensor(0.5 * math.log1p(1e18)))
    assert torch.isfinite(values).all()
    assert bounded_energy(torch.full((1, 4, 1, 1), 2.0)).item() == pytest.approx(math.log(5))
