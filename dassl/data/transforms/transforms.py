"""From a PIL image to a normalised tensor.

``cfg.INPUT.TRANSFORMS`` says which steps are taken, never in which order: the order is fixed here,
as it is in Dassl. Training images are resized to INPUT.SIZE without keeping their aspect ratio
unless a random crop is chosen; test images always get their shorter side resized and their centre
cut out.
"""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import common.torchvision_compat  # noqa: F401

# isort: split
import numpy as np
import torch
import torchvision.transforms as T
from torchvision.transforms import AutoAugmentPolicy
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

from dassl.utils import UsageError, check_availability

from .randaugment import RandAugment, RandAugment2, RandAugmentFixMatch

if TYPE_CHECKING:
    from PIL import Image

    from dassl.config import Config

AVAI_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",  # accepted and without effect: test images are always centre-cropped
    "cutout",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
]

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

# Filling for what a rotation or shear uncovers.
_GREY = [128, 128, 128]


class Random2DTranslation:
    """With probability ``p`` enlarge by an eighth and cut out a random window; otherwise only
    resize.

    Args:
        height, width: size of the result in pixels.
        p: probability.
        interpolation: for resizing.
    """

    def __init__(
        self,
        height: int,
        width: int,
        p: float = 0.5,
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    ):
        self.height = height
        self.width = width
        self.p = p
        self.interpolation = interpolation

    def __call__(self, img: "Image.Image") -> "Image.Image":
        if random.uniform(0, 1) > self.p:
            return F.resize(img, [self.height, self.width], self.interpolation)
        large = [round(self.height * 1.125), round(self.width * 1.125)]
        img = F.resize(img, large, self.interpolation)
        left = round(random.uniform(0, large[1] - self.width))
        top = round(random.uniform(0, large[0] - self.height))
        return F.crop(img, top, left, self.height, self.width)


class InstanceNormalization:
    """Give every channel of an image (C, H, W) mean 0 and standard deviation 1."""

    def __init__(self, eps: float = 1e-8):
        self.eps = eps

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        channels = img.flatten(1)
        mean, std = (value.view(-1, 1, 1) for value in (channels.mean(1), channels.std(1)))
        return (img - mean) / (std + self.eps)


class Cutout:
    """Set random squares of an image (C, H, W) to zero (DeVries and Taylor, 2017, arXiv
    1708.04552).

    Args:
        n_holes: number of squares.
        length: their side in pixels; parts outside the image are cut off.
    """

    def __init__(self, n_holes: int = 1, length: int = 16):
        self.n_holes = n_holes
        self.length = length

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        height, width = img.shape[-2:]
        half = self.length // 2
        img = img.clone()
        for _ in range(self.n_holes):
            y = np.random.randint(height)  # noqa: NPY002 (the per-sample seed covers it)
            x = np.random.randint(width)  # noqa: NPY002
            img[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0.0
        return img


class GaussianNoise:
    """With probability ``p`` add independent normal noise to every value of a tensor."""

    def __init__(self, mean: float = 0.0, std: float = 0.15, p: float = 0.5):
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        if random.uniform(0, 1) > self.p:
            return img
        return img + torch.randn(img.size()) * self.std + self.mean


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
        check_availability(choice, AVAI_CHOICES, kind="transform (INPUT.TRANSFORMS)")
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
    if "random_translation" in choices:
        steps.append(("random translation", Random2DTranslation(size[0], size[1])))
    if "random_crop" in choices:
        text = f"random crop (padding = {cfg.CROP_PADDING})"
        steps.append((text, T.RandomCrop(size, padding=cfg.CROP_PADDING)))
    if "random_resized_crop" in choices:
        text = f"random resized crop (size={size}, scale={cfg.RRCROP_SCALE})"
        crop = T.RandomResizedCrop(size, scale=cfg.RRCROP_SCALE, interpolation=interpolation)
        steps.append((text, crop))
    if "random_flip" in choices:
        steps.append(("random flip", T.RandomHorizontalFlip()))
    steps += _colour_and_shape_steps(cfg, choices)
    steps.append(("to torch tensor of range [0, 1]", T.ToTensor()))
    if "cutout" in choices:
        text = f"cutout (n_holes={cfg.CUTOUT_N}, length={cfg.CUTOUT_LEN})"
        steps.append((text, Cutout(cfg.CUTOUT_N, cfg.CUTOUT_LEN)))
    if "normalize" in choices:
        steps.append(_normalize_step(cfg))
    if "gaussian_noise" in choices:
        text = f"gaussian noise (mean={cfg.GN_MEAN}, std={cfg.GN_STD})"
        steps.append((text, GaussianNoise(cfg.GN_MEAN, cfg.GN_STD)))
    if "instance_norm" in choices:
        steps.append(("instance normalization", InstanceNormalization()))
    return steps


def _colour_and_shape_steps(cfg: "Config", choices: Sequence[str]) -> list[Step]:
    """Augmentation policies and colour changes; these come between the flip and the tensor."""
    steps: list[Step] = []
    for choice, policy in (
        ("imagenet_policy", AutoAugmentPolicy.IMAGENET),
        ("cifar10_policy", AutoAugmentPolicy.CIFAR10),
        ("svhn_policy", AutoAugmentPolicy.SVHN),
    ):
        if choice in choices:
            # The published policies, from torchvision. Dassl carries a third-party rewrite of them
            # that draws from python's generator; the sub-policies are the same, the drawn sequence
            # is not.
            steps.append((choice.replace("_", " "), T.AutoAugment(policy, fill=_GREY)))
    number, strength = cfg.RANDAUGMENT_N, cfg.RANDAUGMENT_M
    if "randaugment" in choices:
        steps.append((f"randaugment (n={number}, m={strength})", RandAugment(number, strength)))
    if "randaugment_fixmatch" in choices:
        steps.append((f"randaugment_fixmatch (n={number})", RandAugmentFixMatch(number)))
    if "randaugment2" in choices:
        steps.append((f"randaugment2 (n={number})", RandAugment2(number)))
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
    if "instance_norm" in choices:
        steps.append(("instance normalization", InstanceNormalization()))
    return steps


def _normalize_step(cfg: "Config") -> Step:
    text = f"normalization (mean={cfg.PIXEL_MEAN}, std={cfg.PIXEL_STD})"
    return text, T.Normalize(mean=cfg.PIXEL_MEAN, std=cfg.PIXEL_STD)
