"""CLIPs of random weights in OpenAI's layout: the shape of the real ones, nothing to download.

Speed does not depend on the values. Where they matter (tests compare with recorded numbers), the
same seed draws the same weights.
"""

import torch
from torch import Tensor

# Vision width, layers, patch and image size; text width and layers; width of the joint space.
SIZES = {
    "micro": dict(vw=64, vl=12, patch=16, image=32, tw=64, tl=12, embed=64),
    "tiny": dict(vw=128, vl=12, patch=16, image=64, tw=128, tl=12, embed=64),
    "small": dict(vw=128, vl=12, patch=8, image=48, tw=128, tl=12, embed=128),  # as the bundled one
    "true512": dict(vw=768, vl=12, patch=16, image=64, tw=512, tl=12, embed=512),
    "vitb16": dict(vw=768, vl=12, patch=16, image=224, tw=512, tl=12, embed=512),
}
VOCABULARY, CONTEXT = 49408, 77


def random_clip_state_dict(
    size: str | dict = "tiny", seed: int = 0, fp16_exact: bool = True
) -> dict[str, Tensor]:
    """A ViT CLIP's state dict, float32, with the spreads of CLIP's own initialisation.

    One generator, one draw per tensor, in the order of the keys.

    Args:
        size: one of SIZES, or such a dictionary.
        seed: of the generator.
        fp16_exact: round what OpenAI's files store in fp16 through fp16, so that code which halves
            those weights and then makes them fp32 again gets the same ones.
    """
    shape = SIZES[size] if isinstance(size, str) else size
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def draw(*dims: int, std: float) -> Tensor:
        return torch.randn(*dims, generator=generator, dtype=torch.float32) * std

    def stored(tensor: Tensor) -> Tensor:
        return tensor.half().float() if fp16_exact else tensor

    def layer_norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = 1 + draw(width, std=0.02)
        weights[f"{name}.bias"] = draw(width, std=0.02)

    def blocks(prefix: str, width: int, layers: int) -> None:
        projection_std = width**-0.5 * (2 * layers) ** -0.5
        for layer in range(layers):
            block = f"{prefix}transformer.resblocks.{layer}."

            def linear(name: str, rows: int, columns: int, std: float, block: str = block) -> None:
                separator = "_" if name == "attn.in_proj" else "."
                weights[f"{block}{name}{separator}weight"] = stored(draw(rows, columns, std=std))
                weights[f"{block}{name}{separator}bias"] = stored(draw(rows, std=0.02))

            linear("attn.in_proj", 3 * width, width, width**-0.5)
            linear("attn.out_proj", width, width, projection_std)
            layer_norm(f"{block}ln_1", width)
            linear("mlp.c_fc", 4 * width, width, (2 * width) ** -0.5)
            linear("mlp.c_proj", width, 4 * width, projection_std)
            layer_norm(f"{block}ln_2", width)

    width, text_width, embed, patch = shape["vw"], shape["tw"], shape["embed"], shape["patch"]
    positions = (shape["image"] // patch) ** 2 + 1
    weights["visual.class_embedding"] = draw(width, std=width**-0.5)
    weights["visual.positional_embedding"] = draw(positions, width, std=width**-0.5)
    weights["visual.proj"] = stored(draw(width, embed, std=width**-0.5))
    pixels_std = (3 * patch * patch) ** -0.5
    weights["visual.conv1.weight"] = stored(draw(width, 3, patch, patch, std=pixels_std))
    layer_norm("visual.ln_pre", width)
    blocks("visual.", width, shape["vl"])
    layer_norm("visual.ln_post", width)
    weights["token_embedding.weight"] = draw(VOCABULARY, text_width, std=0.02)
    weights["positional_embedding"] = draw(CONTEXT, text_width, std=0.01)
    blocks("", text_width, shape["tl"])
    layer_norm("ln_final", text_width)
    weights["text_projection"] = stored(draw(text_width, embed, std=text_width**-0.5))
    weights["logit_scale"] = torch.tensor(4.6052, dtype=torch.float32)  # about ln 100
    return weights
