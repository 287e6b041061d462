"""What is written about a backbone beside its weights, by open_clip or by transformers.

A configuration says what the shapes of weights do not: the activation, the number of heads, the
image tower's kind, and the pixels that the model was trained on. Whether this project can run the
model is decided here, before any download.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UsageError
from common.reading import read_json

OPEN_CLIP = "open_clip_config.json"
TRANSFORMERS = "config.json"
TRANSFORMERS_PIXELS = "preprocessor_config.json"

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

# What OpenAI's layout leaves open; any other setting must have open_clip's (and OpenAI's) default.
_FREE_VISION = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"}
_FREE_VISION |= {"patch_dropout"}  # acts in training only
_FREE_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_FREE_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}

# In the order in which they explain most.
_TEXT_REASONS = {
    "hf_model_name": "its text tower is {!r}",
    "embed_cls": "its text tower adds a class token",
    "no_causal_mask": "in its text tower words attend to later words",
    "hf_tokenizer_name": "its texts are tokenised by {!r}",
}
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclass(frozen=True)
class Preprocessing:
    """The images that a backbone was trained on.

    Attributes:
        resolution: side in pixels.
        mean, std: of the pixels, by channel, in units of 0..1.
        interpolation: "bicubic", "bilinear" or another of Pillow's.
        resize_mode: "shortest" (resize the shorter side, then crop) or "squash" (resize both).
    """

    resolution: int = 224
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"


@dataclass(frozen=True)
class Facts:
    """What a configuration says of a backbone.

    Attributes:
        settings: where it departs from what OpenAI's layout implies: ``quick_gelu`` (False),
            ``vision_heads`` and ``text_heads`` (where they are not width // 64), ``image_tower``
            (arguments of open_clip's builder, for a tower that OpenAI's layout cannot express).
        pixels: None where nothing is said about them.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    pixels: Preprocessing | None = None


def of_open_clip(
    name: str,
    config: Mapping[str, Any],
    pixels: Mapping[str, Any],
    quick_gelu: bool = False,
) -> Facts:
    """Read a configuration of open_clip's.

    Args:
        name: what messages call it.
        config: ``embed_dim``, ``vision_cfg``, ``text_cfg`` and more, as in a file of open_clip's.
        pixels: ``mean``, ``std``, ``interpolation``, ``resize_mode``, as far as they are stated.
        quick_gelu: that weights are known to need it, whatever the configuration says.

    Raises:
        UsageError: this project cannot run it (the message says why), or it is damaged.
    """
    try:
        return _of_open_clip(name, config, pixels, quick_gelu)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise _damaged(name, error) from None


def _of_open_clip(
    name: str, config: Mapping[str, Any], pixels: Mapping[str, Any], quick_gelu: bool
) -> Facts:
    vision, text = config["vision_cfg"], config["text_cfg"]
    reason = next(_text_obstacles(config), None)
    if reason:
        raise _cannot_run(name, reason)
    size = vision.get("image_size", 224)
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise _cannot_run(
            name, f"its images are not square ({size!r})", "images are cut to squares"
        )
    quick_gelu = bool(quick_gelu or config.get("quick_gelu"))
    settings: dict[str, Any] = {} if quick_gelu else {"quick_gelu": False}
    if next(image_obstacles(config), None):
        settings["image_tower"] = {
            "embed_dim": config["embed_dim"],
            "vision_cfg": dict(vision),
            "quick_gelu": quick_gelu,
        }
    elif isinstance(vision.get("layers", 12), int):
        _add_heads(settings, "vision_heads", vision.get("width", 768), vision.get("head_width", 64))
    width = text.get("width", 512)
    _add_heads(settings, "text_heads", width, width // text.get("heads", 8))
    return Facts(settings, preprocessing(name, sides.pop(), pixels))


def _add_heads(settings: dict[str, Any], key: str, width: int, head_width: int) -> None:
    if head_width != 64:
        settings[key] = width // head_width


def _text_obstacles(config: Mapping[str, Any]) -> Iterator[str]:
    """Say what keeps a model's texts from being CLIP's."""
    from open_clip.model import CLIPTextCfg

    stated = dict(_unlike(config["text_cfg"], CLIPTextCfg(), _FREE_TEXT))
    for key, reason in _TEXT_REASONS.items():
        if key in stated:
            yield reason.format(stated[key])
    for key, value in stated.items():
        yield f"text_cfg.{key} = {value!r} is not CLIP's"
    for key in config:
        if key not in _FREE_MODEL and config[key] not in (None, False):
            yield f"{key} = {config[key]!r} is not CLIP's"


def image_obstacles(config: Mapping[str, Any]) -> Iterator[str]:
    """Say what OpenAI's layout cannot express of the image tower of an open_clip configuration."""
    from open_clip.model import CLIPVisionCfg

    for key, value in _unlike(config["vision_cfg"], CLIPVisionCfg(), _FREE_VISION):
        yield f"vision_cfg.{key} = {value!r}"


def _unlike(config: Mapping[str, Any], defaults: Any, free: set[str]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key not in free and value != getattr(defaults, key, None):
            yield key, value


def of_transformers(name: str, config: Mapping[str, Any], pixels: Mapping[str, Any]) -> Facts:
    """Read a configuration of Hugging Face transformers' (``config.json``).

    Args:
        name: what messages call it.
        pixels: the content of ``preprocessor_config.json``; may be empty.

    Raises:
        UsageError: it is no CLIP, or this project cannot run it, or it is damaged.
    """
    try:
        return _of_transformers(name, config, pixels)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise _damaged(name, error) from None


def _of_transformers(name: str, config: Mapping[str, Any], pixels: Mapping[str, Any]) -> Facts:
    if config["model_type"] != "clip":
        raise _cannot_run(
            name, f"it is a {config['model_type']!r} model, whose texts are not CLIP's"
        )
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    for part, tower in (("vision_config", vision), ("text_config", text)):
        if tower.get("layer_norm_eps", 1e-5) != 1e-5:
            raise _cannot_run(name, f"{part}.layer_norm_eps = {tower['layer_norm_eps']!r}")
    # transformers' defaults, which its files leave out
    activations = {tower.get("hidden_act", "quick_gelu") for tower in (vision, text)}
    if len(activations) != 1 or not activations <= {"quick_gelu", "gelu"}:
        raise _cannot_run(name, f"its activations are {', '.join(sorted(map(str, activations)))}")
    settings: dict[str, Any] = {} if activations == {"quick_gelu"} else {"quick_gelu": False}
    for key, tower, width, heads in (
        ("vision_heads", vision, 768, 12),
        ("text_heads", text, 512, 8),
    ):
        width = tower.get("hidden_size", width)
        _add_heads(settings, key, width, width // tower.get("num_attention_heads", heads))
    stated = {
        key: pixels[theirs]
        for key, theirs in (("mean", "image_mean"), ("std", "image_std"))
        if theirs in pixels
    }
    if pixels.get("resample") in _RESAMPLING:
        stated["interpolation"] = _RESAMPLING[pixels["resample"]]
    return Facts(settings, preprocessing(name, vision.get("image_size", 224), stated))


def beside(path: Path) -> Facts:
    """Read the configuration that lies in the folder of a weights file, if there is one.

    open_clip's folders hold ``open_clip_config.json``, transformers' ``config.json``; where there
    are both, the file's name tells whose it is.

    Raises:
        UsageError: as `of_open_clip` and `of_transformers`.
    """
    open_clip, transformers = path.with_name(OPEN_CLIP), path.with_name(TRANSFORMERS)
    is_transformers = path.name in ("model.safetensors", "pytorch_model.bin")
    if open_clip.is_file() and not (is_transformers and _states_model_type(transformers)):
        content = read_json(open_clip)
        if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
            raise _damaged(str(open_clip), "no model_cfg")
        pixels = content.get("preprocess_cfg") or {}
        return of_open_clip(str(open_clip), content["model_cfg"], pixels)
    if _states_model_type(transformers):
        pixels_file = path.with_name(TRANSFORMERS_PIXELS)
        pixels = read_json(pixels_file) if pixels_file.is_file() else {}
        return of_transformers(str(transformers), read_json(transformers), pixels)
    return Facts()


def _states_model_type(path: Path) -> bool:
    if not path.is_file():
        return False
    content = read_json(path)
    return isinstance(content, dict) and "model_type" in content


def preprocessing(name: str, resolution: Any, stated: Mapping[str, Any]) -> Preprocessing:
    """Return the images that a model was trained on; what is not stated is OpenAI's.

    Raises:
        UsageError: what is stated cannot be.
    """
    pixels = Preprocessing(
        resolution=int(resolution),
        mean=_three(stated.get("mean", PIXEL_MEAN)),
        std=_three(stated.get("std", PIXEL_STD)),
        interpolation=str(stated.get("interpolation") or "bicubic"),
        resize_mode=str(stated.get("resize_mode") or "shortest"),
    )
    if not 1 <= pixels.resolution <= 8192 or min(pixels.std) <= 0:
        raise UsageError(
            f"{name}: images of {pixels.resolution} pixels with pixel std {pixels.std} cannot be; "
            "remove or mend the configuration"
        )
    return pixels


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"{values!r} are no pixel values")
    return red, green, blue


def _cannot_run(name: str, reason: str, need: str = "") -> UsageError:
    need = need or "learned prompts need CLIP's own text tower"
    return UsageError(
        f"{name}: {reason}; {need} (python -m anprompt backbones lists the models that run)"
    )


def _damaged(name: str, reason: object) -> UsageError:
    if isinstance(reason, KeyError):
        reason = f"no {reason.args[0]!r}"
    return UsageError(f"{name}: not a configuration of a CLIP ({reason}); remove or mend it")
