"""CLIP as prompt learning needs it: OpenAI's modules and parameter names, run block by block.

The model knows no method. A method composes these pieces::

    tokens = clip.visual.embed(images)                      # (B, 1 + patches, width), before ln_pre
    tokens = clip.visual.transformer.run(clip.visual.ln_pre(tokens), stop=5)
    tokens = clip.visual.transformer.run(tokens, start=5, edit=my_edit)
    features = clip.visual.project(tokens[:, 0])

``edit(layer, tokens) -> tokens`` is called before each block and may insert, replace or blend
tokens (see ``clip.edits``). Text is best encoded through ``clip.text``, which runs what all
classes share once.

Tensors inside are batch first, (B, L, D). ``Transformer.forward`` and
``ResidualAttentionBlock.forward`` keep OpenAI's sequence-first convention, (L, B, D), which stock
CoOp-family code relies on.

References:
    [0] Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
        https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packing import Packing
from .resnet import ModifiedResNet

Edit = Callable[[int, Tensor], Tensor]

SEQUENCES_AT_ONCE = 8  # on a CPU, without gradients: their activations stay in its caches


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in the precision of its own weights (fp32), result cast back."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU, x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        # The same through silu(y) = y * sigmoid(y): fewer passes, and one tensor kept for the
        # gradient instead of two. silu keeps its input, so its output may be scaled in place.
        return F.silu(1.702 * x).div_(1.702)


class Attention(nn.Module):
    """Multi-head self-attention with ``nn.MultiheadAttention``'s parameter names."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def _heads_first(self, x: Tensor) -> Tensor:
        """(..., L, D) -> (..., heads, L, D / heads)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def _split(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights of the queries, of the keys and values; biases of the same."""
        width = self.in_proj_weight.shape[1]
        sizes = [width, 2 * width]
        return *self.in_proj_weight.split(sizes), *self.in_proj_bias.split(sizes)

    def forward(self, x: Tensor, causal: bool = False, keep: slice | None = None) -> Tensor:
        """Attend within ``x`` (B, L, D); with ``keep``, only those positions ask (all answer)."""
        if keep is None:
            return self.forward_prefix(x, causal)[0]
        if causal:
            raise ValueError("keep= is for bidirectional attention")
        q_weight, kv_weight, q_bias, kv_bias = self._split()
        k, v = F.linear(x, kv_weight, kv_bias).chunk(2, dim=-1)
        q, k, v = map(self._heads_first, (F.linear(x[:, keep], q_weight, q_bias), k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def forward_prefix(
        self, x: Tensor, causal: bool = True
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend within ``x`` (B, L, D); also keys and values, each (B, heads, L, D / heads)."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = map(self._heads_first, qkv.chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2)), (k, v)

    def forward_own(
        self, own: Tensor, shared: tuple[Tensor, Tensor], packing: Packing, ends: bool = False
    ) -> Tensor:
        """Causal attention of the tokens that follow a shared beginning.

        Each attends to its group's beginning and, causally, to its own text.

        Args:
            own: (G, T, D), the tokens of C texts, packed.
            shared: keys and values of the G beginnings, each (G, heads, P, D / heads).
            ends: only the texts' last tokens ask.

        Returns:
            (G, T, D), or (G, C, D) with ``ends``.
        """
        if ends:
            q_weight, kv_weight, q_bias, kv_bias = self._split()
            q = F.linear(own[:, packing.ends], q_weight, q_bias).unsqueeze(2)  # (G, C, 1, D)
            k, v = packing.unpack(F.linear(own, kv_weight, kv_bias)).chunk(2, dim=-1)
            mask = packing.beyond
        else:
            qkv = F.linear(own, self.in_proj_weight, self.in_proj_bias)
            q, k, v = packing.unpack(qkv).chunk(3, dim=-1)  # (G, C, S, D)
            mask = packing.later
        q, k, v = map(self._heads_first, (q, k, v))  # (G, C, H, S, d)
        k_shared, v_shared = shared

        # Scores against the shared keys as one matrix product per head, against own keys per class,
        # one softmax over both. Nothing of size classes x prefix keys is ever copied.
        rows = q.shape[1], q.shape[3]  # C, and S or 1
        q_rows = q.transpose(1, 2).flatten(2, 3)  # (G, H, C * S, d)
        to_shared = (q_rows @ k_shared.transpose(-2, -1)).unflatten(2, rows)  # (G, H, C, S, P)
        to_own = (q @ k.transpose(-2, -1)).masked_fill(mask, float("-inf"))  # (G, C, H, S, S)
        scores = torch.cat([to_shared.transpose(1, 2), to_own], dim=-1) * q.shape[-1] ** -0.5
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype)
        w_shared, w_own = weights.split([k_shared.shape[2], k.shape[3]], dim=-1)
        from_shared = w_shared.transpose(1, 2).flatten(2, 3) @ v_shared  # (G, H, C * S, d)
        out = from_shared.unflatten(2, rows).transpose(1, 2) + w_own @ v
        out = out.transpose(2, 3).flatten(3)  # (G, C, S, D)
        return self.out_proj(out.squeeze(2) if ends else packing.pack(out))


class ResidualAttentionBlock(nn.Module):
    """One pre-norm transformer block."""

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool = False,
        quick_gelu: bool = True,
        mlp_width: int | None = None,
    ):
        super().__init__()
        mlp_width = mlp_width or 4 * width
        self.causal = causal
        self.attn = Attention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, mlp_width),
                gelu=QuickGELU() if quick_gelu else nn.GELU(),
                c_proj=nn.Linear(mlp_width, width),
            )
        )
        self.ln_2 = LayerNorm(width)

    def run(self, x: Tensor, keep: slice | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D), or only the positions ``keep`` of it."""
        residual = x if keep is None else x[:, keep]
        x = residual + self.attn(self.ln_1(x), causal=self.causal, keep=keep)
        return x + self.mlp(self.ln_2(x))

    def run_prefix(self, prefix: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Causally over the beginnings of texts (G, P, D); with their keys and values, for
        ``run_own``.
        """
        out, shared = self.attn.forward_prefix(self.ln_1(prefix))
        prefix = prefix + out
        return prefix + self.mlp(self.ln_2(prefix)), shared

    def run_own(
        self, own: Tensor, shared: tuple[Tensor, Tensor], packing: Packing, ends: bool = False
    ) -> Tensor:
        """What follows these beginnings, packed: (G, T, D) -> (G, T, D), or with ``ends`` the
        outputs at the C last tokens only, (G, C, D).
        """
        residual = own[:, packing.ends] if ends else own
        own = residual + self.attn.forward_own(self.ln_1(own), shared, packing, ends)
        return own + self.mlp(self.ln_2(own))

    def forward(self, x: Tensor) -> Tensor:
        """Sequence first, (L, B, D) -> (L, B, D), as OpenAI's."""
        return self.run(x.transpose(0, 1)).transpose(0, 1)


class Transformer(nn.Module):
    """A stack of blocks that can be run in ranges, with a token edit before each block.

    Attributes:
        classes_at_once: how many class texts ``clip.text`` runs together; 0 for all. With fewer
            the others' activations are not held: training makes them a second time.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        causal: bool = False,
        quick_gelu: bool = True,
        mlp_width: int | None = None,
    ):
        super().__init__()
        self.width = width
        self.layers = layers
        self.classes_at_once = 0
        block = partial(ResidualAttentionBlock, width, heads, causal, quick_gelu, mlp_width)
        self.resblocks = nn.Sequential(*[block() for _ in range(layers)])

    def run(
        self,
        x: Tensor,
        start: int = 0,
        stop: int | None = None,
        edit: Edit | None = None,
        keep: slice | None = None,
    ) -> Tensor:
        """Blocks ``start .. stop - 1`` (0-based) over ``x`` (B, L, D).

        edit: called as ``edit(layer, x)`` before each block; may change L.
        keep: positions wanted of the last block's output; the rest of it is not computed.
        """
        if x.device.type == "cpu" and not torch.is_grad_enabled() and len(x) > SEQUENCES_AT_ONCE:
            pieces = x.split(SEQUENCES_AT_ONCE)
            return torch.cat([self.run(piece, start, stop, edit, keep) for piece in pieces])
        stop = self.layers if stop is None else stop
        for layer in range(start, stop):
            if edit is not None:
                x = edit(layer, x)
            x = self.resblocks[layer].run(x, keep if layer == stop - 1 else None)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Sequence first, (L, B, D) -> (L, B, D), as OpenAI's."""
        return self.run(x.transpose(0, 1)).transpose(0, 1)


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
        """Image (B, 3, H, W) -> class and patch tokens with positions (B, 1 + patches, width)."""
        patches = self.conv1(image).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        return tokens + self.positional_embedding.to(tokens.dtype)

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
        visual: the image tower, ``VisionTransformer`` or ``ModifiedResNet``.
        context_length, vocab_size, text_width, text_heads, text_layers: the text tower.
        quick_gelu: activation of the text tower, as OpenAI's weights need it.
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
    ):
        super().__init__()
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.visual = visual
        self.transformer = Transformer(
            text_width, text_layers, text_heads, causal=True, quick_gelu=quick_gelu
        )
        self.token_embedding = nn.Embedding(vocab_size, text_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, text_width))
        self.ln_final = LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.empty(text_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.initialize_parameters()

    def initialize_parameters(self) -> None:
        """CLIP's initial values, for training from scratch."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.transformer.width**-0.5)
        towers = [self.transformer]
        if isinstance(self.visual, VisionTransformer):
            towers.append(self.visual.transformer)
        for tower in towers:
            attn_std = tower.width**-0.5
            proj_std = attn_std * (2 * tower.layers) ** -0.5
            for block in tower.resblocks:
                nn.init.normal_(block.attn.in_proj_weight, std=attn_std)
                nn.init.normal_(block.attn.out_proj.weight, std=proj_std)
                nn.init.zeros_(block.attn.out_proj.bias)
                nn.init.normal_(block.mlp.c_fc.weight, std=(2 * tower.width) ** -0.5)
                nn.init.normal_(block.mlp.c_proj.weight, std=proj_std)

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> features (B, embed_dim), not normalised."""
        return self.visual(image.type(self.dtype))

    def encode_text(self, text: Tensor) -> Tensor:
        """Token ids (C, context_length) -> features (C, embed_dim), not normalised.

        The text feature is read where the highest token id (the end token) stands.
        """
        from .text import encode_tokens  # text builds on model

        return encode_tokens(self, text)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Logits per image (B, C) and per text (C, B)."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits = self.logit_scale.exp() * image_features @ text_features.t()
        return logits, logits.t()


def convert_weights(model: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """OpenAI's mixed layout: matrix products in ``dtype``; normalisation and embeddings in fp32."""
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


def _count_blocks(state_dict: dict[str, Tensor], prefix: str) -> int:
    start = len(prefix)
    return len({key[start:].split(".")[0] for key in state_dict if key.startswith(prefix)})


def input_resolution(state_dict: dict[str, Tensor]) -> int:
    """Side of the images in pixels that a state dict is for, read off its shapes.

    Raises:
        KeyError: not a CLIP in OpenAI's layout.
    """
    if "visual.proj" in state_dict:
        stride = state_dict["visual.conv1.weight"].shape[-1]
        positions = len(state_dict["visual.positional_embedding"])
    else:  # a ModifiedResNet halves its input five times
        stride = 32
        positions = len(state_dict["visual.attnpool.positional_embedding"])
    return stride * round((positions - 1) ** 0.5)


def build_model(state_dict: dict[str, Tensor]) -> CLIP:
    """A CLIP in eval mode whose shape is read off a state dict in OpenAI's layout.

    Two scalars that OpenAI's files do not have are understood: ``quick_gelu`` (False for plain
    GELU) and ``vision_heads`` (where they are not width // 64). ``clip.loading`` adds them.

    The model keeps the precision of OpenAI's recipe: if the file's matrices are fp16, so are the
    model's (call ``.float()`` for fp32, as stock code does).

    Raises:
        ValueError: keys missing, unexpected or of the wrong shape.
    """
    scalars = {"input_resolution", "context_length", "vocab_size", "quick_gelu", "vision_heads"}
    given = {key: int(value) for key, value in state_dict.items() if key in scalars}
    quick_gelu = bool(given.get("quick_gelu", True))
    state_dict = {key: value for key, value in state_dict.items() if key not in scalars}
    try:
        embed_dim = state_dict["text_projection"].shape[1]
        context_length, text_width = state_dict["positional_embedding"].shape
        vocab_size = state_dict["token_embedding.weight"].shape[0]
        if "visual.proj" in state_dict:
            vision_width, _, patch_size, _ = state_dict["visual.conv1.weight"].shape
            visual = VisionTransformer(
                input_resolution=input_resolution(state_dict),
                patch_size=patch_size,
                width=vision_width,
                layers=_count_blocks(state_dict, "visual.transformer.resblocks."),
                heads=given.get("vision_heads", vision_width // 64),
                output_dim=embed_dim,
                quick_gelu=quick_gelu,
                mlp_width=len(state_dict["visual.transformer.resblocks.0.mlp.c_fc.bias"]),
            )
        else:
            width = state_dict["visual.layer1.0.conv1.weight"].shape[0]
            visual = ModifiedResNet(
                layers=[_count_blocks(state_dict, f"visual.layer{i}.") for i in (1, 2, 3, 4)],
                output_dim=embed_dim,
                heads=width * 32 // 64,
                input_resolution=input_resolution(state_dict),
                width=width,
            )
    except KeyError as error:
        raise ValueError(
            f"not a CLIP state dict in OpenAI's layout: no {error.args[0]!r}"
        ) from None
    model = CLIP(
        embed_dim,
        visual,
        context_length,
        vocab_size,
        text_width,
        text_heads=text_width // 64,
        text_layers=_count_blocks(state_dict, "transformer.resblocks."),
        quick_gelu=quick_gelu,
    )
    if state_dict["text_projection"].dtype == torch.float16:
        convert_weights(model)
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip()
        raise ValueError(f"not a CLIP state dict in OpenAI's layout: {first}") from None
    return model.eval()
