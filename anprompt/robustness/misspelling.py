"""The worst of misspellings: one edit in each class name, chosen to mislead the model.

The search is greedy over candidates at Levenshtein distance 1, fifty a class, that spell no other
word. What is made worse is the accuracy on the test images itself, which random typing errors do
not do. [O]
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.robustness.classifier import Classifier
from anprompt.robustness.images import TestImages, select
from anprompt.robustness.texts import dictionary
from noise.edits import misspellings
from noise.seeding import rng_for
from noise.text import fill

CANDIDATES = 50  # a class
SEARCHED_IMAGES = 1000  # at most; evenly over the classes


def candidates(names: Sequence[str], seed: int, count: int = CANDIDATES) -> list[list[str]]:
    """Return misspellings of each class name; the name itself where there is none."""
    found = []
    for name in names:
        rng = rng_for(seed, "text", "misspelling", name)
        found.append(misspellings(name, count, rng, dictionary(), names) or [name])
    return found


@torch.no_grad()
def worst_names(
    classifier: Classifier, images: TestImages, seed: int, batch_size: int
) -> list[str]:
    """Return a misspelling of each class name that together leave the fewest answers right.

    Class by class, the candidate is taken with which the fewest images are answered rightly, the
    names chosen before it kept; of equals the one with the higher loss. A class's logit is taken to
    depend on its own prompt only, as it does in all methods here.
    """
    names = classifier.words
    choices = candidates(names, seed)
    chosen_images = select(images.keys, images.labels, SEARCHED_IMAGES)
    labels = torch.from_numpy(images.labels[chosen_images]).to(classifier.device)
    encoded = list(_encoded(classifier, images, chosen_images, batch_size))

    def logits(prompted: Sequence[str]) -> Tensor:  # (N, C)
        prompts = [fill(classifier.template, name) for name in prompted]
        state = classifier.prompted_state(_as_fixed(classifier, prompts))
        return torch.cat([classifier.classify(x, state)[classifier.rule] for x in encoded]).float()

    current = logits(names)
    worst = list(names)
    rounds = max(map(len, choices))
    tried = torch.stack(  # (rounds, N, C); classes with fewer candidates repeat theirs
        [logits([own[i % len(own)] for own in choices]) for i in range(rounds)]
    )
    for c, own in enumerate(choices):
        best: tuple[float, float] | None = None
        kept = current[:, c].clone()
        for i, name in enumerate(own):
            current[:, c] = tried[i, :, c]
            right = (current.argmax(dim=1) == labels).float().mean().item()
            outcome = (right, -F.cross_entropy(current, labels).item())
            if best is None or outcome < best:
                best, worst[c], kept = outcome, name, current[:, c].clone()
        current[:, c] = kept
    return worst


def _as_fixed(classifier: Classifier, prompts: list[str]) -> list[str]:
    """Leave the closing full stop to methods that add their own."""
    if classifier.template.endswith("."):
        return prompts
    return [prompt.rstrip(".") for prompt in prompts]


def _encoded(
    classifier: Classifier, images: TestImages, chosen: list[int], batch_size: int
) -> Iterator[Any]:
    for start in np.arange(0, len(chosen), batch_size):
        yield classifier.encode(images.tensors(chosen[start : start + batch_size]), {})
