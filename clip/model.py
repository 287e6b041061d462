"""CLIP as prompt learning needs it: OpenAI's modules and parameter names, run block by block.

The model knows no method. A method composes these pieces::

    tokens = clip.visual.embed(images)                      # (B, 1 + patches, width), before ln_pre
    tokens = clip.visual.transformer.run(clip.visual.ln_pre(tokens), stop=5)
    tokens = clip.visual.transformer.run(tokens, start=5, edit=my_edit)
    features = clip.visual.project(tokens[:, 0])

``edit(layer, tokens) -> tokens`` is called before each block and may insert, replace or blend
tokens (see ``clip.edits``). Text is best encoded through ``clip.text``, which runs what all
classes share once. Tensors are batch first, (B, L, D).

References:
    [0] Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
        https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UsageError

from .blocks import Attention, LayerNorm, QuickGELU, ResidualAttentionBlock, Transformer
from .image_tower import TOWER, build_image_tower
from .resnet import ModifiedResNet
from .shapes import count_blocks, input_resolution
from .text import encode_tokens

__all__ = [
    "CLIP",
    "Attention",
    "LayerNorm",
    "ModifiedResNet",
    "QuickGELU",
    "ResidualAttentionBlock",
    "Transformer",
    "VisionTransformer",
    "build_model",
    "convert_weights",
]


class VisionTransformer(nn.Module):
    """CLIP's image tower, ViT form."""

    def __init__(
        self,
        input_resolution: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        output_dim: int,
        quick_gelu: bool = True,
        mlp_width: int | None = None,
    ):
        super().__init__()
        self.input_resolution = input_resolution
        self.output_dim = output_dim
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        grid = input_resolution // patch_size
        self.positional_embedding = nn.Parameter(scale * torch.randn(grid**2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(
            width, layers, heads, quick_gelu=quick_gelu, mlp_width=mlp_width
        )
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim))

    def embed(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) -> class and patch tokens with positions (B, 1 + patches, width).

        Of an image of another size than the tower was trained on, the positions are interpolated.
        """
        patches = self.conv1(image)
        positions = self.positions((patches.shape[2], patches.shape[3]))
        patches = patches.flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        return tokens + positions.to(tokens.dtype)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Positions (1 + rows * columns, width) of the class token and a grid (rows, columns).

        A grid other than the tower's own gets its positions bicubically interpolated with
        antialiasing, as open_clip does it.
        """
        own = round((len(self.positional_embedding) - 1) ** 0.5)
        if grid == (own, own):
            return self.positional_embedding
        first, rest = self.positional_embedding.float().split([1, own * own])
        rest = rest.unflatten(0, (1, own, own)).permute(0, 3, 1, 2)
        rest = F.interpolate(rest, grid, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([first, rest[0].flatten(1).t()])

    def project(self, token: Tensor) -> Tensor:
        """Output token (..., width) -> joint space (..., output_dim), not normalised."""
        return self.ln_post(token) @ self.proj

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.ln_pre(self.embed(image))
        return self.project(self.transformer.run(tokens, keep=slice(0, 1))[:, 0])


class CLIP(nn.Module):
    """Image and text tower with OpenAI's attribute names.

    Args:
        embed_dim: width of the joint space.
        visual: the image tower: `VisionTransformer`, `ModifiedResNet`, or one of open_clip's
            (`clip.image_tower`), which can only be run as a whole.
        context_length, vocab_size, text_width, text_heads, text_layers: the text tower.
        quick_gelu: activation of the text tower, as OpenAI's weights need it.
        text_mlp_width: width inside the text tower's MLPs; 4 * text_width if left out.
    """

    def __init__(
        self,
        embed_dim: int,
        visual: nn.Module,
        context_length: int,
        vocab_size: int,
        text_width: int,
        text_heads: int,
        text_layers: int,
        quick_gelu: bool = True,
        text_mlp_width: int | None = None,
    ):
        super().__init__()
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.visual: Any = visual
        self.transformer = Transformer(
            text_width,
            text_layers,
            text_heads,
            causal=True,
            quick_gelu=quick_gelu,
            mlp_width=text_mlp_width,
        )
        self.token_embedding = nn.Embedding(vocab_size, text_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, text_width))
        self.ln_final = LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.empty(text_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.initialize_parameters()

    def initialize_parameters(self) -> None:
        """Set CLIP's initial values, for training from scratch."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.transformer.width**-0.5)
        towers = [self.transformer]
        if isinstance(self.visual, VisionTransformer):
            towers.append(self.visual.transformer)
        for tower in towers:
            attn_std = tower.width**-0.5
            proj_std = attn_std * (2 * tower.layers) ** -0.5
            for block in tower.blocks():
                weights = dict(block.named_parameters())
                nn.init.normal_(weights["attn.in_proj_weight"], std=attn_std)
                nn.init.normal_(weights["attn.out_proj.weight"], std=proj_std)
                nn.init.zeros_(weights["attn.out_proj.bias"])
                nn.init.normal_(weights["mlp.c_fc.weight"], std=(2 * tower.width) ** -0.5)
                nn.init.normal_(weights["mlp.c_proj.weight"], std=proj_std)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the matrix products."""
        return self.text_projection.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> features (B, embed_dim), not normalised."""
        return self.visual(image.type(self.dtype))

    def encode_text(self, text: Tensor) -> Tensor:
        """Token ids (C, context_length) -> features (C, embed_dim), not normalised.

        The text feature is read where the highest token id (the end token) stands.
        """
        return encode_tokens(self, text)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Logits per image (B, C) and per text (C, B)."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits = self.logit_scale.exp() * image_features @ text_features.t()
        return logits, logits.t()


def convert_weights(model: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """Convert to OpenAI's mixed layout, in place.

    Matrix products go to ``dtype``; normalisation and embeddings stay in fp32. One of open_clip's
    image towers goes to ``dtype`` as a whole, as open_clip does it.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
        elif isinstance(module, Attention):
            module.in_proj_weight.data = module.in_proj_weight.data.to(dtype)
            module.in_proj_bias.data = module.in_proj_bias.data.to(dtype)
        for name in ("proj", "text_projection"):
            parameter = getattr(module, name, None)
            if isinstance(parameter, nn.Parameter):
                parameter.data = parameter.data.to(dtype)
    if isinstance(model, CLIP) and not isinstance(model.visual, VisionTransformer | ModifiedResNet):
        model.visual.to(dtype)


# What stands beside the weights; OpenAI's own files hold the first three, which follow from shapes.
SETTINGS = {"input_resolution", "context_length", "vocab_size"}
SETTINGS |= {"quick_gelu", "vision_heads", "text_heads", TOWER}


def build_model(state_dict: dict[str, Tensor]) -> CLIP:
    """Return a CLIP in eval mode whose shape is read off a state dict in OpenAI's layout.

    What OpenAI's files do not have is understood as well (``clip.weights`` adds it): the scalars
    ``quick_gelu`` (False for plain GELU), ``vision_heads`` and ``text_heads`` (where they are not
    width // 64), and the configuration of an image tower of open_clip's.

    The model keeps the precision of OpenAI's recipe: if the file's matrices are fp16, so are the
    model's (call ``.float()`` for fp32, as stock code does).

    Raises:
        UsageError: keys missing, unexpected or of the wrong shape.
    """
    settings = {key: value for key, value in state_dict.items() if key in SETTINGS}
    weights = {key: value for key, value in state_dict.items() if key not in SETTINGS}
    try:
        model = _shaped_like(weights, settings)
    except UsageError:
        raise
    except Exception as error:  # shapes of another model can fail in any way
        raise _other_layout(_reason(error)) from None
    _check_shapes(weights, model.state_dict())
    if weights["text_projection"].dtype == torch.float16:
        convert_weights(model)
    model.load_state_dict(weights)
    return model.eval()


def _shaped_like(weights: dict[str, Tensor], settings: dict[str, Tensor]) -> CLIP:
    quick_gelu = bool(settings.get("quick_gelu", True))
    text_width, embed_dim = weights["text_projection"].shape
    context_length, _ = weights["positional_embedding"].shape
    layers, mlp_width = _blocks(weights, "transformer.resblocks.", text_width)
    if TOWER in settings:
        visual = build_image_tower(settings[TOWER], embed_dim)
    else:
        visual = _visual_shaped_like(weights, settings, embed_dim, quick_gelu)
    return CLIP(
        embed_dim,
        visual,
        context_length,
        len(weights["token_embedding.weight"]),
        text_width,
        text_heads=_heads(settings.get("text_heads"), text_width),
        text_layers=layers,
        quick_gelu=quick_gelu,
        text_mlp_width=mlp_width,
    )


def _blocks(weights: dict[str, Tensor], prefix: str, width: int) -> tuple[int, int]:
    """Number of blocks and width of their MLPs.

    All blocks have what is large of them, so a model of these sizes takes the memory that its
    weights take.
    """
    mlp_width = len(weights[f"{prefix}0.mlp.c_fc.weight"])
    layers = count_blocks(weights, prefix)
    for layer in range(layers):
        for name, rows in (("attn.in_proj_weight", 3 * width), ("mlp.c_fc.weight", mlp_width)):
            _check_shape(f"{prefix}{layer}.{name}", weights, (rows, width))
    return layers, mlp_width


def _visual_shaped_like(
    weights: dict[str, Tensor], settings: dict[str, Tensor], embed_dim: int, quick_gelu: bool
) -> nn.Module:
    resolution = input_resolution({key: value.shape for key, value in weights.items()})
    if resolution is None:
        raise ValueError("no image tower")
    if "visual.proj" in weights:
        width, _, patch_size, _ = weights["visual.conv1.weight"].shape
        layers, mlp_width = _blocks(weights, "visual.transformer.resblocks.", width)
        return VisionTransformer(
            input_resolution=resolution,
            patch_size=patch_size,
            width=width,
            layers=layers,
            heads=_heads(settings.get("vision_heads"), width),
            output_dim=embed_dim,
            quick_gelu=quick_gelu,
            mlp_width=mlp_width,
        )
    width = len(weights["visual.layer1.0.conv1.weight"])
    _check_shape("visual.attnpool.q_proj.weight", weights, (32 * width, 32 * width))
    return ModifiedResNet(
        layers=[count_blocks(weights, f"visual.layer{i}.") for i in (1, 2, 3, 4)],
        output_dim=embed_dim,
        heads=_heads(None, 32 * width),
        input_resolution=resolution,
        width=width,
    )


def _heads(stated: Tensor | None, width: int) -> int:
    heads = width // 64 if stated is None else int(stated)
    if heads < 1 or width % heads:
        raise ValueError(f"attention of width {width} cannot have {heads} heads")
    return heads


def _check_shapes(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise UsageError for the first name or shape that differs."""
    for name, tensor in wanted.items():
        if name.endswith(".num_batches_tracked") and name not in weights:
            continue  # no part of what a BatchNorm computes
        _check_shape(name, weights, tuple(tensor.shape))
    unknown = next((name for name in weights if name not in wanted), None)
    if unknown is not None:
        raise _other_layout(f"{unknown!r} has no place in it")


def _check_shape(name: str, weights: dict[str, Tensor], wanted: tuple[int, ...]) -> None:
    if name not in weights:
        raise _other_layout(f"no {name!r}")
    if weights[name].shape != wanted:
        raise _other_layout(
            f"{name} has shape {tuple(weights[name].shape)}, beside the other tensors it needs "
            f"{wanted}"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    return str(error).split("\n")[0] or type(error).__name__


def _other_layout(reason: str) -> UsageError:
    return UsageError(f"not a CLIP state dict in OpenAI's layout: {reason}")
