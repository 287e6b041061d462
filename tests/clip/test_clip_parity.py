"""Features against open_clip's modules, an independent implementation, with the same weights."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP as OpenClip

import clip
from clip.model import CLIP, build_model, convert_weights
from clip.weights import hub
from common.errors import UsageError

pytestmark = pytest.mark.slow

TEXTS = ["a photo of a cat.", "annual crop land"]
TINY_VISION = dict(layers=2, width=128, head_width=64, patch_size=8, image_size=32)
TINY_TEXT = dict(width=64, heads=1, layers=2)


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Also what is initialised to ones and zeros gets values that matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            noise = torch.randn(tensor.shape, generator=generator)
            if "running_var" in name or name.endswith(("bn1.weight", "bn2.weight", "bn3.weight")):
                tensor.copy_(1 + 0.2 * noise.clamp(-2, 2))
            else:
                tensor.add_(0.02 * noise)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:  # statistics that fit the weights, or the signal would fade on its way
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train().encode_image(images(model.visual.image_size))
    return model.eval()


def images(size: int) -> torch.Tensor:
    """Two images (2, 3, size, size) of coarse patches: noise alone looks alike once pooled."""
    coarse = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=(size, size))


def theirs(config: dict, seed: int = 0) -> OpenClip:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomised(OpenClip(**config), seed)


def openai_config(architecture: str) -> dict:
    return open_clip.get_model_config(architecture) | {"quick_gelu": True}


@pytest.fixture(scope="module")
def vit_b16() -> tuple[CLIP, OpenClip]:
    reference = theirs(openai_config("ViT-B-16"))
    return build_model(reference.state_dict()), reference


def assert_same_features(ours, reference, size: int, atol: float = 1e-5) -> None:
    image = images(size)
    tokens = clip.tokenize(TEXTS)
    with torch.no_grad():
        for name, values in (("encode_image", image), ("encode_text", tokens)):
            expected = getattr(reference, name)(values)
            assert (expected[0] - expected[1]).norm() > 0.01 * expected[0].norm()
            torch.testing.assert_close(getattr(ours, name)(values), expected, atol=atol, rtol=0)
        logits_per_image, logits_per_text = ours(image, tokens)
        expected_logits = reference.get_logits(image, tokens)[0]
    assert logits_per_image.shape == (2, len(TEXTS))
    torch.testing.assert_close(logits_per_image, expected_logits, atol=1e-3, rtol=1e-4)
    assert torch.equal(logits_per_text, logits_per_image.t())


def test_vit_b16(vit_b16):
    ours, reference = vit_b16
    assert ours.visual.input_resolution == 224 and ours.visual.output_dim == 512
    assert_same_features(ours, reference, 224)


def test_rn50():
    reference = theirs(openai_config("RN50"))
    ours = build_model(reference.state_dict())
    assert ours.visual.input_resolution == 224 and ours.visual.output_dim == 1024
    assert_same_features(ours, reference, 224)


@pytest.mark.parametrize(
    ("vision", "given"),
    [
        ({}, {}),
        ({}, {"quick_gelu": False}),
        ({"width": 160, "head_width": 80}, {"quick_gelu": False, "vision_heads": 2}),
        ({"mlp_ratio": 4.5}, {}),
        ({"layers": [1, 2, 1, 1], "width": 64, "image_size": 64}, {}),
    ],
    ids=["plain", "gelu", "heads", "mlp", "resnet"],
)
def test_small_shapes(vision, given):
    config = dict(
        embed_dim=64,
        vision_cfg=TINY_VISION | vision,
        text_cfg=TINY_TEXT,
        quick_gelu=given.get("quick_gelu", True),
    )
    reference = theirs(config)
    scalars = {key: torch.tensor(value) for key, value in given.items()}
    ours = build_model(reference.state_dict() | scalars)
    assert_same_features(ours, reference, config["vision_cfg"]["image_size"])


def test_every_architecture_accepted_has_the_shapes_of_open_clips():
    """On the meta device: names, shapes and heads of all plain ViTs and ResNets, none too large."""
    accepted = []
    for architecture in dict.fromkeys(architecture for architecture, _ in hub.tags()):
        try:
            settings = hub.facts(architecture).settings
        except UsageError as error:
            assert "\n" not in str(error) and str(error).startswith(f"{architecture}: ")
            continue
        if "image_tower" in settings:
            continue
        accepted.append(architecture)
        if architecture.endswith("-quickgelu"):
            assert settings.get("quick_gelu", True)
            continue
        with torch.device("meta"):
            reference = OpenClip(**open_clip.get_model_config(architecture))
            state_dict = reference.state_dict()
            ours = build_model(
                state_dict | {key: torch.tensor(v, device="cpu") for key, v in settings.items()}
            )
        shapes = {key: value.shape for key, value in ours.state_dict().items()}
        assert shapes == {key: value.shape for key, value in state_dict.items()}
        size = reference.visual.image_size
        assert ours.visual.input_resolution == (size if isinstance(size, int) else size[0])
        if hasattr(ours.visual, "transformer"):
            heads = reference.visual.transformer.resblocks[0].attn.num_heads
            assert ours.visual.transformer.resblocks[0].attn.heads == heads
    plain = {"RN50", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14-336", "ViT-H-14", "ViT-bigG-14"}
    assert plain <= set(accepted)
    assert not any(name in " ".join(accepted) for name in ("SigLIP", "coca", "EVA", "CLIPA"))


def test_sequence_first_transformer_as_stock_text_encoders_use_it(vit_b16):
    ours, reference = vit_b16
    tokens = clip.tokenize(TEXTS)
    with torch.no_grad():
        x = ours.token_embedding(tokens).type(ours.dtype) + ours.positional_embedding
        x = ours.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        x = ours.ln_final(x).type(ours.dtype)
        features = x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ ours.text_projection
        torch.testing.assert_close(features, reference.encode_text(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [2, [1, 1, 1, 1]], ids=["vit", "resnet"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_fp32(dtype, layers):
    vision = TINY_VISION | {"layers": layers, "width": 64 if isinstance(layers, list) else 128}
    reference = theirs(dict(embed_dim=64, vision_cfg=vision, text_cfg=TINY_TEXT, quick_gelu=True))
    ours = build_model(reference.state_dict())
    convert_weights(ours, dtype)
    assert ours.dtype == dtype
    assert ours.ln_final.weight.dtype == ours.token_embedding.weight.dtype == torch.float32
    image = images(32)
    tokens = clip.tokenize(TEXTS)
    with torch.no_grad():
        for name, values in (("encode_image", image), ("encode_text", tokens)):
            features = getattr(ours, name)(values)
            assert features.dtype == dtype
            similarity = torch.cosine_similarity(
                features.float(), getattr(reference, name)(values), dim=-1
            )
            assert similarity.min() > (0.999 if dtype == torch.float16 else 0.97)
