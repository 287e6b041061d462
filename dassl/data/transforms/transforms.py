"""From a PIL image to a normalised tensor.

``cfg.INPUT.TRANSFORMS`` says which steps are taken, never in which order: the order is fixed here,
as it is in Dassl. Training images are resized to INPUT.SIZE without keeping their aspect ratio
unless a random crop is chosen; test images always get their shorter side resized and their centre
cut out.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import common.torchvision_compat  # noqa: F401

# isort: split
import torchvision.transforms as T
from torchvision.transforms.functional import InterpolationMode

from dassl.config.defaults import TRANSFORMS
from dassl.utils import UsageError, check_availability

if TYPE_CHECKING:
    from dassl.config import Config

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


def build_transform(
    cfg: "Config", is_train: bool = True, choices: Sequence[str] | None = None
) -> T.Compose | None:
    """Make the transform for training or testing, and print its steps.

    Args:
        cfg: the configuration; INPUT is read.
        is_train: for training, with augmentation, or for testing, without.
        choices: use these names instead of INPUT.TRANSFORMS.

    Returns:
        A callable from PIL image to float tensor (3, H, W); None with INPUT.NO_TRANSFORM.

    Raises:
        UsageError: unknown transform or interpolation; names the nearest.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    for choice in choices:
        check_availability(choice, TRANSFORMS, kind="transform (INPUT.TRANSFORMS)")
    check_availability(
        cfg.INPUT.INTERPOLATION, INTERPOLATION_MODES, kind="interpolation (INPUT.INTERPOLATION)"
    )
    if len(cfg.INPUT.SIZE) != 2 or min(cfg.INPUT.SIZE) < 1:
        raise UsageError(f"INPUT.SIZE is (height, width) in pixels, got {cfg.INPUT.SIZE}")
    print(f"Building transform_{'train' if is_train else 'test'}")
    steps = _train_steps(cfg.INPUT, choices) if is_train else _test_steps(cfg.INPUT, choices)
    for text, _ in steps:
        print(f"+ {text}")
    return T.Compose([step for _, step in steps])


Step = tuple[str, Callable[[Any], Any]]  # what the log says, what is done


def _train_steps(cfg: "Config", choices: Sequence[str]) -> list[Step]:
    size, interpolation = cfg.SIZE, INTERPOLATION_MODES[cfg.INTERPOLATION]
    steps: list[Step] = []
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        steps.append((f"resize to {size[0]}x{size[1]}", T.Resize(size, interpolation)))
    if "random_crop" in choices:
        text = f"random crop (padding = {cfg.CROP_PADDING})"
        steps.append((text, T.RandomCrop(size, padding=cfg.CROP_PADDING)))
    if "random_resized_crop" in choices:
        text = f"random resized crop (size={size}, scale={cfg.RRCROP_SCALE})"
        crop = T.RandomResizedCrop(size, scale=cfg.RRCROP_SCALE, interpolation=interpolation)
        steps.append((text, crop))
    if "random_flip" in choices:
        steps.append(("random flip", T.RandomHorizontalFlip()))
    steps += _colour_steps(cfg, choices)
    steps.append(("to torch tensor of range [0, 1]", T.ToTensor()))
    if "normalize" in choices:
        steps.append(_normalize_step(cfg))
    return steps


def _colour_steps(cfg: "Config", choices: Sequence[str]) -> list[Step]:
    """Return the changes of colour; these come between the flip and the tensor."""
    steps: list[Step] = []
    if "colorjitter" in choices:
        amounts = {
            "brightness": cfg.COLORJITTER_B,
            "contrast": cfg.COLORJITTER_C,
            "saturation": cfg.COLORJITTER_S,
            "hue": cfg.COLORJITTER_H,
        }
        text = ", ".join(f"{name}={amount}" for name, amount in amounts.items())
        steps.append((f"color jitter ({text})", T.ColorJitter(**amounts)))
    if "randomgrayscale" in choices:
        steps.append(("random gray scale", T.RandomGrayscale(p=cfg.RGS_P)))
    if "gaussian_blur" in choices:
        blur = T.RandomApply([T.GaussianBlur(cfg.GB_K)], p=cfg.GB_P)
        steps.append((f"gaussian blur (kernel={cfg.GB_K})", blur))
    return steps


def _test_steps(cfg: "Config", choices: Sequence[str]) -> list[Step]:
    size, interpolation = cfg.SIZE, INTERPOLATION_MODES[cfg.INTERPOLATION]
    shorter = max(size)
    steps: list[Step] = [
        (f"resize the smaller edge to {shorter}", T.Resize(shorter, interpolation)),
        (f"{size[0]}x{size[1]} center crop", T.CenterCrop(size)),
        ("to torch tensor of range [0, 1]", T.ToTensor()),
    ]
    if "normalize" in choices:
        steps.append(_normalize_step(cfg))
    return steps


def _normalize_step(cfg: "Config") -> Step:
    text = f"normalization (mean={cfg.PIXEL_MEAN}, std={cfg.PIXEL_STD})"
    return text, T.Normalize(mean=cfg.PIXEL_MEAN, std=cfg.PIXEL_STD)
