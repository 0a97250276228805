"""Feature normalisation: what it does to the features it was fitted on, and what it does not depend on."""

import pytest
import torch

from napari_uflow.model.norm import FeatureNorm

KINDS = ("channel", "whiten", "position", "map")
C = 6


def features(seed=0, batch=3, size=(20, 24)) -> torch.Tensor:
    """Correlated channels of different means and log_variances."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(C, C, generator=generator)
    x = torch.einsum("ij,bjmn->bimn", mixing, torch.randn(batch, C, *size, generator=generator))
    sd, mean = torch.logspace(-0.5, 1, C), torch.linspace(-3, 5, C)
    return x * sd[:, None, None] + mean[:, None, None]


def fitted(kind, x, is_normal=None, n_parts=1) -> FeatureNorm:
    norm = FeatureNorm((C,), kind)
    is_normal = torch.ones(x.shape[0], *x.shape[2:], dtype=torch.bool) if is_normal is None else is_normal
    norm.fit(0, lambda: zip(x.chunk(n_parts), is_normal.chunk(n_parts), strict=True))
    return norm


def rows(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(1, -1).reshape(-1, C)


@pytest.mark.parametrize("kind", KINDS)
def test_fitted_features_have_mean_0_and_variance_1(kind):
    x = features()
    y = rows(fitted(kind, x).level(0, x))
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(C), rtol=0, atol=1e-3)
    if kind == "channel":
        torch.testing.assert_close(y.var(dim=0, correction=0), torch.ones(C), rtol=0, atol=1e-3)
    else:  # in every direction but those in which the features hardly vary, which are made smaller
        values = torch.linalg.eigvalsh(torch.cov(y.T, correction=0))
        assert float(values.max()) < 1.001
        assert int((values > 0.9).sum()) >= {"whiten": 5, "position": 4, "map": 5}[kind]


def test_whitened_channels_are_uncorrelated():
    x = features()
    off_diagonal = ~torch.eye(C, dtype=torch.bool)
    assert float(torch.corrcoef(rows(x).T)[off_diagonal].abs().max()) > 0.5
    assert float(torch.cov(rows(fitted("whiten", x).level(0, x)).T)[off_diagonal].abs().max()) < 0.1


def test_whitening_keeps_channels_at_their_place():
    x = features()
    y = fitted("whiten", x).level(0, x)
    alone = fitted("channel", x).level(0, x)
    both = torch.corrcoef(torch.cat((rows(y), rows(alone)), dim=1).T)[:C, C:]
    # ZCA and not PCA: of all rotations that decorrelate, the one that moves the channels least
    assert bool((both.diagonal() > 0.2).all())


def test_a_direction_without_variance_is_not_blown_up():
    x = features()
    x[:, 3] = x[:, 2] * 0.5 + 4
    x[:, 4] = 7.0
    y = fitted("whiten", x).level(0, x)
    noise = (
        1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * x.std(dim=(0, 2, 3))[:, None, None]
    )
    moved = fitted("whiten", x).level(0, x + noise)
    assert bool(torch.isfinite(y).all())
    assert float((moved - y).abs().max()) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_only_normal_positions_count(kind):
    x = features()
    is_normal = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(2)) < 0.6
    spoiled = x.clone()
    if kind == "map":  # this one normalises whole tiles: leave their statistics as they are
        is_normal[1:] = False
        spoiled[1:] += 1000
    else:
        spoiled.movedim(1, -1)[~is_normal] = float("nan")
    one, other = fitted(kind, x, is_normal), fitted(kind, spoiled, is_normal)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    y = one.level(0, x).movedim(1, -1)[is_normal]
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(C), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_does_not_depend_on_the_order_or_size_of_parts(kind):
    x = features(batch=6)
    one, other = fitted(kind, x), fitted(kind, x.flip(0), n_parts=6)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_position_depends_on(kind):
    x = features()
    norm = fitted(kind, x)
    whole, part = norm.level(0, x), norm.level(0, x[:, :, 4:12, 8:24])
    is_same = torch.allclose(part, whole[:, :, 4:12, 8:24], rtol=1e-4, atol=1e-4)
    assert is_same is norm.is_size_free
    assert norm.is_size_free is (kind != "map")


@pytest.mark.parametrize("kind", ["position", "map"])
def test_brightness_and_contrast_of_all_channels_are_taken_out(kind):
    x = features()
    norm = fitted(kind, x)
    gain = torch.tensor([0.5, 2.0, 4.0])[:, None, None, None]
    if kind == "position":
        gain = gain * torch.linspace(0.5, 2, 24)
    torch.testing.assert_close(norm.level(0, x * gain + gain), norm.level(0, x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_channels_stay_near_zero(kind):
    x = features()
    x[:, 2] = 5.0
    y = fitted(kind, x).level(0, x)
    assert bool(torch.isfinite(y).all())
    assert float(y.abs().max()) < 100
    if kind in ("channel", "whiten"):
        assert float(y[:, 2].abs().max()) < 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_features_that_are_constant_throughout_stay_finite(kind):
    x = torch.full((1, C, 4, 4), 3.0)
    y = fitted(kind, x).level(0, x)
    torch.testing.assert_close(y, torch.zeros_like(y))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 6e4])
def test_values_at_both_ends_of_float16(kind, scale):
    x = features()
    x = (x / x.abs().max() * scale).half()
    y = rows(fitted(kind, x).level(0, x.float()))
    assert bool(torch.isfinite(y).all())
    assert float(y.var(dim=0, correction=0).max()) < 1.1


@pytest.mark.parametrize("kind", KINDS)
def test_no_normal_position_is_an_error(kind):
    x = features()
    with pytest.raises(ValueError, match="no normal position"):
        fitted(kind, x, torch.zeros(3, 20, 24, dtype=torch.bool))
    with pytest.raises(ValueError, match="no normal position"):
        FeatureNorm((C,), kind).fit(0, lambda: iter(()))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_for_the_loss_to_shrink(kind):
    norm = FeatureNorm((C, 9), kind)
    assert list(norm.parameters()) == []
    assert [tuple(y.shape) for y in norm([features(), torch.zeros(3, 9, 10, 12)])] == [(3, C, 20, 24), (3, 9, 10, 12)]
