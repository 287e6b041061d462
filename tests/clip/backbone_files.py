"""Files of a small CLIP in every format that backbones come in."""

from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP as OpenClip
from safetensors.torch import save_file

import clip

TRACING = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.jit.save and load
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

SHAPES = dict(
    embed_dim=64,
    vision_cfg=dict(layers=2, width=64, patch_size=8, image_size=32),
    text_cfg=dict(width=64, heads=1, layers=2),
    quick_gelu=True,
)


def features(model) -> torch.Tensor:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens = clip.tokenize(["a photo of a cat", "a dog", "zebra"])
    with torch.no_grad():
        return torch.cat([model.encode_image(image), model.encode_text(tokens)])


def save_archive(weights: dict, path: Path) -> None:
    """As OpenAI's: a traced model with the sizes as buffers."""
    model = OpenClip(**SHAPES).eval()
    model.load_state_dict(weights)
    image, tokens = torch.zeros(2, 3, 32, 32), clip.tokenize(["a", "b"])
    traced = torch.jit.trace(model, (image, tokens), check_trace=False)
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    for name, value in sizes.items():
        traced._c._register_attribute(name, torch._C.TensorType.get(), torch.tensor(value))
    torch.jit.save(traced, path)


def save_compact(weights: dict, path: Path) -> None:
    ids = clip.tokenize(["a photo of a cat", "a dog"]).unique()
    compact = dict(weights) | {"token_embedding.ids": ids.int()}
    compact["token_embedding.weight"] = weights["token_embedding.weight"][ids].contiguous()
    save_file(compact, path)


WRITERS = {
    "plain.pt": torch.save,
    "training.pt": lambda w, path: torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in w.items()}}, path
    ),
    "legacy.pt": lambda w, path: torch.save(w, path, _use_new_zipfile_serialization=False),
    "archive.pt": save_archive,
    "openai.safetensors": save_file,
    "no-suffix": save_file,
    "compact.safetensors": save_compact,
    "custom-text.safetensors": lambda w, path: save_file(
        {
            key if key.startswith(("visual", "logit")) else f"text.{key}": value
            for key, value in w.items()
        },
        path,
    ),
}
