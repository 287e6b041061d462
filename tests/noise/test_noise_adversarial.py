import math

import pytest
import torch
import torch.nn.functional as F

from noise.adversarial import pgd
from noise.torch_seeding import torch_generator_for

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 4


def model(dtype=torch.float32):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.GELU(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(8 * 7 * 7, 4)).to(dtype).eval()


def batch(size=5):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(size, 3, 16, 16, generator=generator)
    images[0, 0] = 0  # on the borders of the valid range
    images[0, 1] = 1
    return images, torch.arange(size) % 4


def slow_pgd(net, images, labels, eps, alpha, steps, start):
    """Value by value, from the definition."""
    adversarial = (images + start).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_(True)
        loss = F.cross_entropy(net(adversarial), labels)
        gradient = torch.autograd.grad(loss, adversarial)[0]
        moved = adversarial.detach().clone().flatten()
        flat_images, flat_gradient = images.flatten(), gradient.flatten()
        for i in range(len(moved)):
            slope = flat_gradient[i].item()
            sign = 0.0 if slope == 0 else math.copysign(1, slope)
            value, clean = moved[i].item() + alpha * sign, flat_images[i].item()
            moved[i] = min(max(value, clean - eps, 0.0), clean + eps, 1.0)
        adversarial = moved.view_as(images)
    return adversarial


@pytest.mark.parametrize("random_start", [False, True])
def test_equals_the_slow_reference(random_start):
    images, labels = batch()
    start = torch.zeros_like(images)
    if random_start:
        start.uniform_(-EPS, EPS, generator=torch_generator_for(1))
    result = pgd(
        model(), images, labels, EPS, ALPHA, 2, torch_generator_for(1) if random_start else None
    )
    expected = slow_pgd(model(), images, labels, EPS, ALPHA, 2, start)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize(("eps", "alpha", "steps"), [(8 / 255, 2 / 255, 10), (1 / 255, 0.01, 3)])
def test_equals_torchattacks_bit_for_bit(random_start, eps, alpha, steps):
    pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    import torchattacks

    images, labels = batch()
    attack = torchattacks.PGD(model(), eps, alpha, steps, random_start=random_start)
    torch.manual_seed(7)
    expected = attack(images, labels)
    generator = torch.Generator().manual_seed(7) if random_start else None
    assert torch.equal(pgd(model(), images, labels, eps, alpha, steps, generator), expected)


def test_stays_in_the_ball_and_the_valid_range():
    images, labels = batch()
    result = pgd(model(), images, labels, EPS, 0.5, STEPS, torch_generator_for(1))
    assert (result - images).abs().max() <= EPS + 1e-7
    assert result.min() >= 0
    assert result.max() <= 1


def test_raises_the_loss():
    images, labels = batch()
    net = model()
    result = pgd(net, images, labels, EPS, ALPHA, STEPS, torch_generator_for(1))
    assert F.cross_entropy(net(result), labels) > F.cross_entropy(net(images), labels) + 0.01


def test_start_of_an_image_does_not_depend_on_its_neighbours():
    images, labels = batch()

    def attack(chosen):
        own = [torch_generator_for(1, f"{i}.jpg") for i in chosen]
        return pgd(model(), images[chosen], labels[chosen], EPS, ALPHA, 0, own)

    assert torch.equal(attack([3, 1]), attack([0, 1, 2, 3])[[3, 1]])


def test_nothing_else_is_touched():
    images, labels = batch()
    kept = images.clone()
    net = model()
    state = torch.get_rng_state()
    with torch.no_grad():  # as evaluation code runs
        result = pgd(net, images, labels, EPS, ALPHA, STEPS, torch_generator_for(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert not result.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_eps_0_returns_the_images():
    images, labels = batch()
    assert torch.equal(pgd(model(), images, labels, 0, ALPHA, 2, torch_generator_for(1)), images)


def test_dtype_stays():
    images, labels = batch()
    result = pgd(model(torch.float64), images.double(), labels, EPS, ALPHA, 2, None)
    assert result.dtype == torch.float64


def test_bad_input():
    images, labels = batch()
    with pytest.raises(ValueError, match="normalise inside the model"):
        pgd(model(), images * 2 - 1, labels, EPS, ALPHA, 1, None)
    with pytest.raises(ValueError, match="must not be negative"):
        pgd(model(), images, labels, -EPS, ALPHA, 1, None)
    with pytest.raises(ValueError, match="4 labels for 5 images"):
        pgd(model(), images, labels[:4], EPS, ALPHA, 1, None)
    with pytest.raises(ValueError, match="1 generators for 5 images"):
        pgd(model(), images, labels, EPS, ALPHA, 1, [torch_generator_for(1)])
