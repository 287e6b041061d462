import math

import pytest
import torch
import torch.nn.functional as F

from noise.adversarial import dlr, pgd, unscaled_cross_entropy
from noise.masking import UnderAttacks, masking_checks
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


def attacked(net, images, labels, **options):
    return pgd(net, images, labels, **{"eps": EPS, "step": ALPHA, "steps": STEPS, **options})


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
        model(), images, labels, eps=EPS, step=ALPHA, steps=2,
        start=torch_generator_for(1) if random_start else None,
    )  # fmt: skip
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
    assert torch.equal(
        pgd(model(), images, labels, eps=eps, step=alpha, steps=steps, start=generator), expected
    )


def test_stays_in_the_ball_and_the_valid_range():
    images, labels = batch()
    result = pgd(
        model(), images, labels, eps=EPS, step=0.5, steps=STEPS, start=torch_generator_for(1)
    )
    assert (result - images).abs().max() <= EPS + 1e-7
    assert result.min() >= 0
    assert result.max() <= 1


def test_raises_the_loss():
    images, labels = batch()
    net = model()
    result = attacked(net, images, labels, start=torch_generator_for(1))
    assert F.cross_entropy(net(result), labels) > F.cross_entropy(net(images), labels) + 0.01


def test_start_of_an_image_does_not_depend_on_its_neighbours():
    images, labels = batch()

    def attack(chosen):
        own = [torch_generator_for(1, f"{i}.jpg") for i in chosen]
        return attacked(model(), images[chosen], labels[chosen], steps=0, start=own)

    assert torch.equal(attack([3, 1]), attack([0, 1, 2, 3])[[3, 1]])


def test_nothing_else_is_touched():
    images, labels = batch()
    kept = images.clone()
    net = model()
    state = torch.get_rng_state()
    with torch.no_grad():  # as evaluation code runs
        result = attacked(net, images, labels, start=torch_generator_for(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert not result.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_eps_0_returns_the_images():
    images, labels = batch()
    assert torch.equal(
        attacked(model(), images, labels, eps=0, start=torch_generator_for(1)), images
    )


def test_dtype_stays():
    images, labels = batch()
    result = attacked(model(torch.float64), images.double(), labels)
    assert result.dtype == torch.float64


def test_bad_input():
    images, labels = batch()
    for changes, message in [
        ({"images": images * 2 - 1}, "normalise inside the model"),
        ({"eps": -EPS}, "must not be negative"),
        ({"labels": labels[:4]}, "4 labels for 5 images"),
        ({"start": [torch_generator_for(1)]}, "1 generators for 5 images"),
    ]:
        with pytest.raises(ValueError, match=message):
            attacked(model(), **{"images": images, "labels": labels, **changes})


# Losses


def slow_dlr(logits, labels):
    """Equation 6 of Croce and Hein, image by image."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(row, reverse=True)
        other = max(value for i, value in enumerate(row) if i != label)
        total -= (row[label] - other) / (ranked[0] - ranked[2])
    return total / len(labels)


def test_dlr_equals_the_definition_and_knows_no_scale():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 5
    assert dlr(logits, labels).item() == pytest.approx(slow_dlr(logits, labels), abs=1e-5)
    assert dlr(100 * logits, labels).item() == pytest.approx(dlr(logits, labels).item(), abs=1e-5)
    two = torch.tensor([[3.0, 1.0], [0.0, 0.5]])
    assert dlr(two, torch.tensor([0, 0])).item() == pytest.approx((-2 + 0.5) / 2)


@pytest.mark.parametrize("name", ["cross-entropy", "unscaled", "dlr"])
def test_only_losses_without_scale_find_what_saturates(name):
    """At a scale of 1e4 the model is certain in float32: cross-entropy has no gradient."""
    net = model()

    def certain(x):
        return 1e4 * net(x)

    images, _ = batch()
    labels = certain(images).argmax(dim=1)
    losses = {
        "cross-entropy": F.cross_entropy, "unscaled": unscaled_cross_entropy(1e4), "dlr": dlr
    }  # fmt: skip
    result = attacked(certain, images, labels, eps=0.3, step=0.05, steps=10, loss=losses[name])
    fooled = (certain(result).argmax(dim=1) != labels).float().mean()
    if name == "cross-entropy":
        assert torch.equal(result, images)
    else:
        assert fooled == 1


# Signs of masked gradients


def results(changes=(), images=1000):
    accuracy = {
        ("pgd2", 1): 40.0,
        ("pgd10", 1): 31.0,
        ("pgd100", 1): 30.0,
        ("pgd100", 4): 10.0,
        ("pgd100", 255): 0.0,
        ("transfer", 1): 60.0,
        ("square", 1): 35.0,
        ("apgd", 1): 29.0,
    } | dict(changes)
    known = {key: value for key, value in accuracy.items() if value is not None}
    return UnderAttacks(known, images)


def test_nothing_is_masked_where_stronger_attacks_do_more_harm():
    checks = masking_checks(results())
    assert [check.passed for check in checks] == [True] * 5
    assert "pgd2 1/255: 40.0 > pgd10 1/255: 31.0 > pgd100 1/255: 30.0" in checks[0].detail
    assert "square" not in checks[4].detail and "35.0, white-box 29.0" in checks[4].detail


@pytest.mark.parametrize(
    ("key", "value", "failed"),
    [
        (("pgd100", 1), 35.0, 0),  # more steps do less harm
        (("pgd100", 4), 45.0, 1),
        (("pgd100", 255), 20.0, 2),
        (("transfer", 1), 20.0, 3),
        (("square", 1), 20.0, 4),
    ],
)
def test_each_sign_is_seen(key, value, failed):
    checks = masking_checks(results({key: value}))
    assert checks[failed].passed is False
    assert sum(check.passed is False for check in checks) == 1


@pytest.mark.parametrize(
    ("missing", "unknown"),
    [(("pgd100", 4), 1), (("pgd100", 255), 2), (("transfer", 1), 3), (("square", 1), 4)],
)
def test_what_was_not_run_is_not_claimed(missing, unknown):
    checks = masking_checks(results({missing: None}))
    assert checks[unknown].passed is None
    assert all(check.passed is None for check in masking_checks(UnderAttacks()))


@pytest.mark.parametrize(
    ("images", "pgd10", "passed"),
    [(1000, 29.6, True), (1000, 29.4, False), (100, 29.0, True), (100, 28.0, False)],
)
def test_chance_alone_is_no_sign(images, pgd10, passed):
    """Half a point, and with few images one of them."""
    assert masking_checks(results({("pgd10", 1): pgd10}, images))[0].passed is passed


@pytest.mark.parametrize(("kind", "check"), [("transfer", 3), ("square", 4)])
def test_autoattack_which_contains_square_hides_no_sign(kind, check):
    """AutoAttack counted as a white-box attack, and does at least the harm that Square does."""
    checks = masking_checks(results({(kind, 1): 20.0, ("autoattack", 1): 20.0}))
    assert checks[check].passed is False
    assert checks[check].detail == "1/255: 20.0, white-box 29.0"
