"""Evaluation under noise, of anything that gives logits for images (docs/ROBUSTNESS.md).

    from anprompt.robustness import Classifier, TestImages, evaluate

    results = evaluate(Classifier(module, classnames), TestImages(pictures, labels), "image,pgd")

- ``classifier``: what the evaluation asks of a model; ``models``: trained runs as classifiers;
- ``plan``: which noise, at which severities, with which seeds;
- ``images``, ``texts``, ``attacks``, ``misspelling``: images and prompts under noise;
- ``evaluation``: measures; ``answers``: what it keeps of the logits;
- ``store``: robustness.json; ``prepare``: from the command line to runs and images.

`anprompt.results.noise` sums the figures up, for tables and the report.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anprompt.robustness.classifier import Classifier
    from anprompt.robustness.evaluation import evaluate
    from anprompt.robustness.images import TestImages

_WHERE = {"Classifier": "classifier", "TestImages": "images", "evaluate": "evaluation"}
__all__ = ["Classifier", "TestImages", "evaluate"]


def __getattr__(name: str) -> Any:
    # When it is asked for: the plan and the store are used without torch.
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
