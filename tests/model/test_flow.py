"""The laws of the flow: invertible, with the determinant that autograd finds, and equal to another implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from FrEIA.modules import AllInOneBlock

from napari_uflow.model.energy import energy, likelihood_heatmap
from napari_uflow.model.flow import FlowStep, UShapedFlow

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "flow_small.npz")
CHANNELS = (5, 9, 11)


def stirred(module: torch.nn.Module, seed: int = 0, amount: float = 0.5) -> torch.nn.Module:
    """Move all weights, so that no coupling is near the identity it starts from."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += amount * torch.randn(parameter.shape, generator=generator)
    return module


def flow_of(seed: int = 0, channels=CHANNELS, **options) -> UShapedFlow:
    torch.manual_seed(seed)
    return UShapedFlow(channels, **{"flow_steps": 2, **options})


def features_of(channels, size, batch=2, seed=0, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, size[0] >> i, size[1] >> i, generator=generator, dtype=dtype)
        for i, c in enumerate(channels)
    ]


# Another implementation


def test_golden_numbers():
    flow = UShapedFlow((16, 32, 64), flow_steps=4)
    state = {key.removeprefix("state/"): torch.from_numpy(GOLDEN[key]) for key in GOLDEN if key.startswith("state/")}
    flow.load_state_dict(state, strict=True)
    with torch.no_grad():
        latents = flow([torch.from_numpy(GOLDEN[f"x{i}"]) for i in range(3)])
    for i in range(3):
        np.testing.assert_allclose(latents.z[i].numpy(), GOLDEN[f"z{i}"], atol=1e-4)
    np.testing.assert_allclose(latents.ln_det_total.numpy(), GOLDEN["ln_det"], rtol=1e-5)
    heatmap = likelihood_heatmap([energy(z) for z in latents.z], (64, 96))
    np.testing.assert_allclose(heatmap.numpy(), GOLDEN["anomaly_map"][:, 0], atol=1e-4)


@pytest.mark.parametrize("permute_soft", [False, True])
@pytest.mark.parametrize("channels", [8, 11])
def test_a_step_is_freias_block(channels, permute_soft):
    torch.manual_seed(0)
    step = stirred(FlowStep(channels, 3, 1.0, 2.0, permute_soft))

    def subnet(n_in, n_out):
        return torch.nn.Sequential(
            torch.nn.Conv2d(n_in, n_in, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(n_in, n_out, 3, padding=1)
        )

    block = AllInOneBlock([(channels, 6, 10)], subnet_constructor=subnet, affine_clamping=2.0)
    block.load_state_dict(step.state_dict(), strict=True)
    x = torch.randn(2, channels, 6, 10)
    with torch.no_grad():
        y, ln_det = step(x)
        (expected,), expected_ln_det = block((x,))
        (back,), _ = block((y,), rev=True)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ln_det.sum(dim=(1, 2)), expected_ln_det, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(step.inverse(y), back, rtol=1e-4, atol=1e-4)


# Invertible


@pytest.mark.parametrize("permute_soft", [False, True])
@pytest.mark.parametrize("channels", [CHANNELS, (4, 9, 10), (16, 16), (1, 8)])
def test_inverse_of_forward_is_identity_at_any_size(channels, permute_soft):
    flow = stirred(flow_of(0, channels, permute_soft=permute_soft), amount=0.1)
    for size in [(4, 4), (8, 12), (20, 16)]:
        features = features_of(channels, size)
        with torch.no_grad():
            latents = flow(features)
            back = flow.inverse(latents.z)
        for x, y in zip(features, back, strict=True):
            torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-4)
        for z, c, ln_det, x in zip(latents.z, flow.latent_channels, latents.ln_det, features, strict=True):
            assert z.shape == (2, c, *x.shape[2:])
            assert ln_det.shape == (2, *x.shape[2:])


def test_no_dimension_is_lost():
    flow = flow_of()
    with torch.no_grad():
        z = flow(features_of(CHANNELS, (8, 12))).z
    assert sum(part.numel() for part in z) == sum(x.numel() for x in features_of(CHANNELS, (8, 12)))


# The determinant


@pytest.mark.parametrize("permute_soft", [False, True])
def test_ln_det_is_autograds(permute_soft):
    channels, size = (4, 9, 10), (4, 4)
    flow = stirred(flow_of(3, channels, permute_soft=permute_soft), amount=0.3).double()
    features = features_of(channels, size, batch=1, dtype=torch.float64)
    shapes = [x.shape for x in features]
    sizes = [x.numel() for x in features]

    def flat(vector):
        parts = [part.reshape(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        return torch.cat([z.flatten() for z in flow(parts).z])

    jacobian = torch.autograd.functional.jacobian(flat, torch.cat([x.flatten() for x in features]))
    ln_det = torch.linalg.slogdet(jacobian).logabsdet
    assert abs(float(ln_det)) > 1
    torch.testing.assert_close(flow(features).ln_det_total[0], ln_det, rtol=1e-5, atol=1e-5)


def test_maps_of_ln_det_sum_to_the_total_and_stay_at_their_place():
    flow = stirred(flow_of(), amount=0.3)
    features = features_of(CHANNELS, (24, 32))
    with torch.no_grad():
        latents = flow(features)
        total = sum(part.sum(dim=(1, 2)) for part in latents.ln_det)
        torch.testing.assert_close(latents.ln_det_total, total)
        # what happens in one corner of the finest level is not seen in the opposite one, nor at any coarser level
        features[0][:, :, 0, 0] += 3.0
        changed = flow(features).ln_det
    assert not torch.equal(changed[0][:, :4, :4], latents.ln_det[0][:, :4, :4])
    assert torch.equal(changed[0][:, 12:, 12:], latents.ln_det[0][:, 12:, 12:])
    assert torch.equal(changed[1], latents.ln_det[1])
    assert torch.equal(changed[2], latents.ln_det[2])


def test_images_of_a_batch_do_not_see_each_other():
    flow = stirred(flow_of(), amount=0.3)
    features = features_of(CHANNELS, (8, 8), batch=3)
    with torch.no_grad():
        together = flow(features)
        alone = flow([x[1:2] for x in features])
    for one, many in zip(alone.z, together.z, strict=True):
        torch.testing.assert_close(one[0], many[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone.ln_det_total[0], together.ln_det_total[1], rtol=1e-5, atol=1e-4)


# Seeds and states


@pytest.mark.parametrize("permute_soft", [False, True])
def test_the_same_seed_gives_the_same_weights(permute_soft):
    one, same, other = (flow_of(seed, permute_soft=permute_soft).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one if key.endswith("w_perm"))
    assert any(not torch.equal(one[key], other[key]) for key in one if key.endswith("subnet.0.weight"))


@pytest.mark.parametrize("permute_soft", [False, True])
def test_a_loaded_state_brings_its_permutation(permute_soft):
    source = stirred(flow_of(1, permute_soft=permute_soft))
    target = flow_of(2, permute_soft=permute_soft)
    features = features_of(CHANNELS, (8, 8))
    with torch.no_grad():
        assert not torch.equal(target(features).z[0], source(features).z[0])
        target.load_state_dict(source.state_dict(), strict=True)
        ours, theirs = target(features), source(features)
        for a, b in zip(ours.z + ours.ln_det, theirs.z + theirs.ln_det, strict=True):
            assert torch.equal(a, b)
        for a, b in zip(target.inverse(ours.z), features, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("permute_soft", [False, True])
def test_channels_are_mixed_by_a_rotation(permute_soft):
    step = FlowStep(11, 1, 1.0, 2.0, permute_soft)
    matrix = step.w_perm.detach().reshape(11, 11)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(11), rtol=0, atol=1e-5)
    torch.testing.assert_close(step.w_perm_inv.detach().reshape(11, 11), matrix.T)
    assert bool(((matrix == 0) | (matrix == 1)).all()) is not permute_soft


def test_too_few_channels_to_split_are_named():
    with pytest.raises(ValueError, match="at least 8 channels, got 7"):
        UShapedFlow((4, 7))


@pytest.mark.parametrize("permute_soft", [False, True])
def test_gradients_of_a_step_are_those_of_freias_block(permute_soft):
    torch.manual_seed(0)
    step = stirred(FlowStep(11, 3, 1.0, 2.0, permute_soft)).double()

    def subnet(n_in, n_out):
        return torch.nn.Sequential(
            torch.nn.Conv2d(n_in, n_in, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(n_in, n_out, 3, padding=1)
        )

    block = AllInOneBlock([(11, 6, 10)], subnet_constructor=subnet, affine_clamping=2.0).double()
    block.load_state_dict(step.state_dict(), strict=True)
    x = torch.randn(2, 11, 6, 10, dtype=torch.float64)
    weight = torch.randn(2, 11, 6, 10, dtype=torch.float64)
    gradients = []
    for module in (step, block):
        start = x.clone().requires_grad_()
        y, ln_det = module(start) if module is step else module((start,))
        y = y if module is step else y[0]
        ((y * weight).sum() - 0.7 * ln_det.sum()).backward()
        of = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        gradients.append({"x": start.grad, **of})
    mine, expected = gradients
    assert set(mine) == set(expected)
    assert len(mine) == 7  # x, scale, offset, and weights and biases of two convolutions
    for name, value in mine.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-8, msg=name)
