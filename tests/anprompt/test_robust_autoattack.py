"""AutoAttack: its parts by number of classes, and images that stay in the ball."""

import pytest
import torch

from anprompt.robustness.attacks import autoattack, parts_of_autoattack

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "classes", "parts"),
    [
        ("autoattack", 4, ["apgd-ce", "apgd-t", "fab-t", "square"]),  # its standard version
        ("autoattack", 3, ["apgd-ce", "apgd-dlr", "fab", "square"]),  # DLR ranks three classes,
        ("autoattack", 2, ["apgd-ce", "fab", "square"]),  # its targeted one four
        ("apgd", 10, ["apgd-ce", "apgd-t"]),
        ("apgd", 2, ["apgd-ce"]),
        ("square", 2, ["square"]),
    ],
)
def test_parts_of_autoattack(kind, classes, parts):
    assert parts_of_autoattack(kind, classes) == parts


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("kind", ["autoattack", "apgd"])
def test_autoattack_stays_in_the_ball_and_misleads(kind, classes):
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    torch.manual_seed(0)
    weights = torch.randn(3 * 8 * 8, classes)
    images = torch.rand(6, 3, 8, 8)
    labels = (images.flatten(1) @ weights).argmax(dim=1)
    state = torch.get_rng_state()
    changed = autoattack(lambda x: x.flatten(1) @ weights, kind, images, labels, 0.2, 1, classes)
    assert torch.equal(torch.get_rng_state(), state)
    assert (changed - images).abs().max() <= 0.2 + 1e-6
    assert ((changed.flatten(1) @ weights).argmax(dim=1) != labels).all()
