"""What the shapes of weights say about a CLIP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# Names of the patch embedding and of the image positions: OpenAI's and Hugging Face transformers'.
_VIT_NAMES = (
    ("visual.conv1.weight", "visual.positional_embedding"),
    (
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
    ),
)
_RESNET_POSITIONS = "visual.attnpool.positional_embedding"
_RESNET_STRIDE = 32  # it halves its input five times


def input_resolution(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Return the side of the images in pixels that weights are for; None where they do not tell.

    Args:
        shapes: of the weights, by name.
    """
    sides = [
        (shapes[patches][-1], shapes[positions][0])
        for patches, positions in _VIT_NAMES
        if shapes.get(patches) and shapes.get(positions)
    ]
    if shapes.get(_RESNET_POSITIONS):
        sides.append((_RESNET_STRIDE, shapes[_RESNET_POSITIONS][0]))
    if not sides:
        return None
    stride, positions = sides[0]
    return stride * round(max(positions - 1, 0) ** 0.5)


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """Return how many different numbers follow a prefix such as ``transformer.resblocks.``."""
    start = len(prefix)
    return len({name[start:].split(".")[0] for name in names if name.startswith(prefix)})
