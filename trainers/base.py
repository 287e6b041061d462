"""Everything that methods are written with, in one place.

A method is three things:

- a ``PromptLearner``: the learned tensors, and nothing else that trains;
- a ``PromptedCLIP``: how a frozen CLIP and that learner give logits and the loss;
- a ``PromptTrainer``: its name in the registry, its defaults and how the two above are built.

``trainers/template.py`` is the smallest complete example.
"""

from .backbone import (
    apply_speed_settings,
    backbone_of,
    load_clip,
    require_vit,
    resolve_precision,
)
from .model import (
    TOGETHER,
    Images,
    KnownFeatures,
    Loss,
    PromptedCLIP,
    PromptLearner,
    TrainingBatch,
    grad_if_image_asks,
    load_learned,
    trained_classnames,
)
from .prompts import (
    ClassPrompts,
    TokenizedPrompts,
    dataset_template,
    encode_prompts,
    prompt_template,
    tokenize,
)
from .trainer import PromptTrainer, read_learned, setting_for

__all__ = [
    "TOGETHER",
    "ClassPrompts",
    "Images",
    "KnownFeatures",
    "Loss",
    "PromptLearner",
    "PromptTrainer",
    "PromptedCLIP",
    "TokenizedPrompts",
    "TrainingBatch",
    "apply_speed_settings",
    "backbone_of",
    "dataset_template",
    "encode_prompts",
    "grad_if_image_asks",
    "load_clip",
    "load_learned",
    "prompt_template",
    "read_learned",
    "require_vit",
    "resolve_precision",
    "setting_for",
    "tokenize",
    "trained_classnames",
]
