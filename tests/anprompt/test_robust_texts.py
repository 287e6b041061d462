"""Noise on class names meets the same words in every method's prompts."""

import pytest

from anprompt.robustness.texts import noisy_prompts
from noise.cells import Cell

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_shared_words_have_the_same_noise_in_every_method(severity):
    names = ["red apple", "green leaf", "highway or road"]
    char = Cell("text", "char", severity, 1)
    whole = noisy_prompts("a photo of a {}.", names, char)
    bare = noisy_prompts("{}", names, char)
    some = noisy_prompts("of a {}", names, char)
    for long, short, middle in zip(whole, bare, some, strict=True):
        assert long.endswith(f" {short}.") and long.endswith(f" {middle}.")
    assert severity < 5 or whole != [f"a photo of a {name}." for name in names]
    template = Cell("text", "template", severity, 1)
    phrasings = noisy_prompts("a photo of a {}.", names, template)
    others = noisy_prompts("a centered satellite photo of {}.", names, template)
    pairs = zip(phrasings, others, names, strict=True)
    replaced = [(a, b) for a, b, name in pairs if a != f"a photo of a {name}."]
    assert all(a == b for a, b in replaced)
    assert severity < 5 or len(replaced) == len(names)
