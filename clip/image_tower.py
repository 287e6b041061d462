"""Image towers that open_clip builds: EVA02, ConvNeXt, ViTamin, PE and others.

They are run as a whole, so methods that put nothing into the image tower work with them; for the
others there is `clip.model.VisionTransformer`. A state dict says which tower it needs by a
configuration beside its weights, as OpenAI's archives carry ``input_resolution``.
"""

from __future__ import annotations

import json
import re

import torch
from torch import Tensor, nn

from common.errors import UsageError

TOWER = "image_tower"  # the entry of a state dict: JSON, as bytes


def tower_entry(embed_dim: int, vision_cfg: dict, quick_gelu: bool) -> Tensor:
    """Return what a state dict holds under ``TOWER``: the arguments of open_clip's builder."""
    config = {"embed_dim": embed_dim, "vision_cfg": vision_cfg, "quick_gelu": quick_gelu}
    return torch.tensor(list(json.dumps(config, sort_keys=True).encode()), dtype=torch.uint8)


def build_image_tower(entry: Tensor, embed_dim: int) -> nn.Module:
    """Return the tower of a ``TOWER`` entry, with random weights.

    Beside open_clip's interface it has ``input_resolution`` (pixels) and ``output_dim``, as CLIP's
    own towers. The process's random numbers are left as they are.

    Args:
        embed_dim: width of the joint space that the weights have.

    Raises:
        UsageError: open_clip or timm cannot build it, or it does not fit the weights.
    """
    try:
        config = json.loads(bytes(entry.tolist()))
        vision_cfg, quick_gelu = dict(config["vision_cfg"]), bool(config["quick_gelu"])
        stated = int(config["embed_dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"damaged: its {TOWER} is no configuration of one ({error})") from None
    if stated != embed_dim:
        raise UsageError(
            f"the configuration states embed_dim {stated}, the weights are for {embed_dim}"
        )
    name = vision_cfg.get("timm_model_name")
    if name is not None and not re.fullmatch(r"[\w.]+", str(name)):  # timm would ask the network
        raise UsageError(f"{name!r} is not the name of one of timm's models")
    import common.torchvision_compat  # noqa: F401

    # isort: split
    from open_clip.model import _build_vision_tower

    vision_cfg |= {"timm_model_pretrained": False}
    try:
        with torch.random.fork_rng(devices=[]):
            tower = _build_vision_tower(embed_dim, vision_cfg, quick_gelu)
    except Exception as error:  # an unknown timm model, settings of another version, ...
        raise UsageError(
            f"open_clip cannot build the image tower {name or ''} "
            f"({' '.join(str(error).split())[:200]}); a newer open_clip_torch and timm may"
        ) from None
    size = vision_cfg.get("image_size", 224)
    tower.input_resolution = size if isinstance(size, int) else size[0]
    tower.output_dim = embed_dim
    return tower
