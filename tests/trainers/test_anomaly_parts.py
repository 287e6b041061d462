"""Parts of the methods for anomaly detection, against slow twins and by what they must fulfil."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from trainers.anomaly import synthesis
from trainers.anomaly.losses import dice, focal, meta_loss, pixel_loss, within_cone
from trainers.anomaly.model import enlarge, harmonic
from trainers.prograd import guide_gradients

# Maps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_maps_are_enlarged_then_smoothed(sigma):
    grid = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(1))
    wide = F.interpolate(grid[:, None], (40, 40), mode="bilinear")[:, 0].double().numpy()
    plain = np.stack([gaussian_filter(image, sigma) for image in wide]) if sigma else wide
    np.testing.assert_allclose(enlarge(grid, 40, sigma), plain, atol=1e-5)


def test_harmonic_mean():
    a, b = torch.tensor([0.5, 0.0, 0.2]), torch.tensor([0.25, 0.9, 0.2])
    torch.testing.assert_close(harmonic(a, b), torch.tensor([1 / 3, 0.0, 0.2]))


# Losses -------------------------------------------------------------------------------------------


def test_losses_from_their_equations():
    scores = torch.tensor([[[0.9, 0.2], [0.4, 0.1]]])
    truth = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    right = [0.9, 0.8, 0.4, 0.9]
    expected = np.mean([-((1 - p) ** 2) * np.log(p) for p in right])
    assert float(focal(scores, truth)) == pytest.approx(expected, rel=1e-5)
    assert float(dice(scores, truth)) == pytest.approx(1 - (2 * 1.3 + 1) / (1.6 + 2 + 1))


def test_all_normal_truth_is_finite():
    scores = torch.zeros(1, 4, 4, requires_grad=True)
    loss = pixel_loss(scores, torch.zeros(1, 4, 4))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(scores.grad).all()


def test_meta_loss():
    meta = F.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6]]), dim=-1)
    assert float(meta_loss(meta, meta)) == pytest.approx(0, abs=1e-6)
    alike = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(meta_loss(alike, meta)) == pytest.approx(0.2 + 0.5 * 0.2, rel=1e-5)


def test_meta_prompt_stays_in_its_cone():
    axis = F.normalize(torch.tensor([[1.0, 1.0, 0.0]]), dim=-1)
    far = F.normalize(torch.tensor([[1.0, -1.0, 1.0]]), dim=-1)
    held = within_cone(far, axis, 0.8)
    assert float((held * axis).sum()) == pytest.approx(0.8, rel=1e-5)
    assert float(held.norm()) == pytest.approx(1, rel=1e-5)
    best = max(  # nearest: no other point of the cone is closer
        float((far * (0.8 * axis + 0.6 * side)).sum())
        for angle in np.linspace(0, 2 * np.pi, 100)
        for side in [
            np.cos(angle) * torch.tensor([[0.5**0.5, -(0.5**0.5), 0]])
            + np.sin(angle) * torch.tensor([[0.0, 0.0, 1.0]])
        ]
    )
    assert float((held * far).sum()) >= best - 1e-4
    near = F.normalize(torch.tensor([[1.0, 0.9, 0.0]]), dim=-1)
    assert torch.equal(within_cone(near, axis, 0.8), near)


def test_projection_never_opposes_the_guide():
    generator = torch.Generator().manual_seed(1)

    def gradients(term, retain_graph=False):
        return torch.autograd.grad(term, [parameter], retain_graph=retain_graph)

    for _ in range(50):
        parameter = nn.Parameter(torch.randn(7, generator=generator))
        trainer = SimpleNamespace(learned=lambda own=parameter: [own], gradients=gradients)
        a, b = torch.randn(2, 7, generator=generator)
        guide_gradients(trainer, (parameter * a).sum(), (parameter * b).sum(), 1.0)
        along = float((parameter.grad * b).sum() / b.norm())
        assert along >= -1e-6
        if float((a * b).sum()) >= 0:
            assert torch.equal(parameter.grad, a)
    guide_gradients(trainer, (parameter * a).sum(), 0 * parameter.sum(), 1.0)
    assert torch.equal(parameter.grad, a)  # a guide without direction takes nothing


# Synthetic anomalies ------------------------------------------------------------------------------


@pytest.fixture
def image():
    return np.random.default_rng(2).random((3, 48, 40)).astype(np.float32) * 0.5 + 0.25


def made(image, step=0, seed=1, mask=None, **named):
    mask = np.ones(image.shape[1:], bool) if mask is None else mask
    rng = synthesis.generator("train/good/000.png", step, seed, "anomaly")
    return synthesis.synthesise(image, mask, rng, **named)


def test_the_same_seed_gives_the_same_anomaly(image):
    for first, second in zip(made(image), made(image), strict=True):
        assert np.array_equal(first, second)
    assert any(
        not np.array_equal(made(image)[1], made(image, step=step)[1]) for step in range(1, 4)
    )
    assert any(
        not np.array_equal(made(image)[1], made(image, seed=seed)[1]) for seed in range(2, 5)
    )


@pytest.mark.parametrize("kind", synthesis.KINDS)
def test_only_the_region_changes_and_it_is_on_the_object(image, kind):
    mask = np.zeros(image.shape[1:], bool)
    mask[10:40, 8:30] = True
    for step in range(20):
        changed, where = made(image, step, mask=mask, kinds=[kind])
        assert where.any() and not (where & ~mask).any()
        assert np.array_equal(changed[:, ~where], image[:, ~where])
        assert (changed[:, where] != image[:, where]).any()
        assert changed.min() >= 0 and changed.max() <= 1 and changed.dtype == np.float32


def test_whole_image_and_fixed_strength(image):
    changed, where = made(image, is_whole=True, strength=(0.3, 0.3))
    assert where.all()
    assert 0.1 < (changed - image).std() < 0.35


def test_ellipses_have_the_area_they_should():
    mask = np.ones((200, 200), bool)
    rng = np.random.default_rng(0)
    shares = [synthesis.ellipse(mask, rng).mean() for _ in range(60)]
    assert max(shares) <= 0.085 and min(shares) > 0.0002


def test_perlin_noise_is_zero_on_its_lattice():
    noise = synthesis.perlin((32, 32), (4, 4), np.random.default_rng(0))
    np.testing.assert_allclose(noise[::8, ::8], 0, atol=1e-12)
    assert 0.3 < np.abs(noise).max() <= 1.5
    assert np.abs(np.diff(noise, axis=0)).max() < 0.5


def slow_otsu(values):
    """The threshold between two of the values with the least variance within both sides."""
    values = np.sort(values)
    within = [
        cut * values[:cut].var() + (len(values) - cut) * values[cut:].var()
        for cut in range(1, len(values))
    ]
    cut = 1 + int(np.argmin(within))
    return values[cut - 1], values[cut]


def test_otsu():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0.2, 0.03, 200), rng.normal(0.7, 0.05, 90)])
    low, high = slow_otsu(values)
    assert low - 0.01 <= synthesis.otsu(values) <= high + 0.01
    assert np.isfinite(synthesis.otsu(np.full(10, 0.5)))


def test_object_mask_falls_back_to_everything():
    scores = np.zeros((20, 20))
    scores[5:15, 5:15] = 1
    assert synthesis.object_mask(scores).sum() == 100
    scores[:] = 0
    scores[0, 0] = 1  # a hundredth of nothing
    assert synthesis.object_mask(scores).all()


def test_augmentation_is_mild(image):
    rng = synthesis.generator("a", 0, 1, "augment")
    changed = synthesis.augment(image, rng)
    assert changed.shape == image.shape and changed.min() >= 0 and changed.max() <= 1
    assert abs(changed.mean() - image.mean()) < 0.1
