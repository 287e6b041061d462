"""A backbone's state dict, from its name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from common.errors import UsageError

from ..image_tower import TOWER, tower_entry
from .configs import OPEN_CLIP
from .files import read_tensors
from .layouts import to_openai_layout
from .names import CheckpointFile, locate


def load_state_dict(name: str = "", folder: Path | None = None) -> dict[str, Tensor]:
    """Return a backbone's state dict in OpenAI's layout, on the CPU, in its file's precision.

    Where a model departs from what OpenAI's layout implies, further entries say so, as OpenAI's
    archives carry ``input_resolution``; ``clip.build_model`` understands them.

    Args:
        name: see ``clip.weights.names``.
        folder: of downloads (default: ``hub.cache_folder()``).

    Raises:
        UsageError: unknown name, nothing to be had from the network, or a file that is damaged, no
            CLIP, or one that this project cannot run; says which and why.
    """
    return state_dict_of(locate(name, folder))


def state_dict_of(file: CheckpointFile) -> dict[str, Tensor]:
    """Return the state dict of a located backbone; its settings are further entries."""
    tensors = to_openai_layout(read_tensors(file.path), file.path)
    settings = dict(file.facts.settings)
    if TOWER not in settings and any(key.startswith("visual.trunk.") for key in tensors):
        raise UsageError(
            f"{file.path}: its image tower is one of timm's, and which does not stand in the file: "
            f"name open_clip's architecture, as convnext_base::PATH, or put {OPEN_CLIP} beside it"
        )
    if TOWER in settings:
        tensors[TOWER] = tower_entry(**settings.pop(TOWER))
    return tensors | {key: torch.tensor(value) for key, value in settings.items()}
