"""Words for normal and anomalous objects, and the features that frozen CLIP makes of them.

References:
    [0] Jeong et al., WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation, 2023,
        https://arxiv.org/abs/2303.14814 (states and templates in this manner)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import clip
from noise.text import fill

from ..prompts import ClassPrompts, encode_prompts

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS_STATES = (
    "damaged {}",
    "broken {}",
    "{} with a flaw",
    "{} with a defect",
    "{} with damage",
    "{} with a scratch",
    "{} with a hole",
    "contaminated {}",
)
TEMPLATES = ("a photo of a {}.", "a cropped photo of a {}.", "a close-up photo of a {}.")
BACKGROUND = "a photo of the background."


def described(name: str, states: Iterable[str], templates: Iterable[str] = ("{}",)) -> list[str]:
    """Return every state of an object in every template.

    >>> described("bolt", ["broken {}"], TEMPLATES[:2])
    ['a photo of a broken bolt.', 'a cropped photo of a broken bolt.']
    """
    return [fill(template, fill(state, name)) for state in states for template in templates]


def mean_direction(features: Tensor, dim: int = -2) -> Tensor:
    """Return the normalised mean of features."""
    return F.normalize(features.mean(dim=dim), dim=-1)


def encode_texts(clip_model: clip.model.CLIP, texts: Sequence[str]) -> Tensor:
    """Return frozen CLIP's normalised features (N, E) of texts, fp32."""
    return F.normalize(encode_prompts(clip_model, ClassPrompts("{}", texts, texts)), dim=-1)


@torch.no_grad()
def state_features(clip_model: clip.model.CLIP, name: str) -> Tensor:
    """Return features (2, E) of a normal and of an anomalous object, in WinCLIP's manner."""
    return torch.stack(
        [
            mean_direction(encode_texts(clip_model, described(name, states, TEMPLATES)))
            for states in (NORMAL_STATES, ANOMALOUS_STATES)
        ]
    )
