"""What one step of pretraining sees: images, changed at random, and their captions as tokens."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from anprompt.pretraining.world import Source, World
from clip.clip import PIXEL_MEAN, PIXEL_STD
from clip.simple_tokenizer import SimpleTokenizer

RESOLUTION = 48
START, END = 49406, 49407
LONGEST = 26  # tokens; longer descriptions are cut in training


class Captions:
    """All captions of a world as rows of token ids, in a vocabulary of the seen tokens only."""

    def __init__(self, world: World):
        encode = SimpleTokenizer().encode
        tokens = {}
        for text in tqdm(world.all_texts(), desc="reading captions", leave=False, disable=None):
            if text not in tokens:
                tokens[text] = [START, *encode(text)[: LONGEST - 2], END]
        self.ids = torch.tensor(sorted({token for row in tokens.values() for token in row}))
        position = {token: row for row, token in enumerate(self.ids.tolist())}

        def compact(texts: list[str]) -> list[list[int]]:
            return [[position[token] for token in tokens[text]] for text in texts]

        self.captions = [compact(texts) for texts in world.captions]
        self.descriptions = [compact(texts) for texts in world.descriptions]
        self.description_rates = world.description_rates

    def draw(self, label: int, rng: np.random.Generator) -> list[int]:
        """One caption of a text class, as rows of the compact token table."""
        texts = self.captions[label]
        if self.descriptions[label] and rng.random() < self.description_rates[label]:
            texts = self.descriptions[label]
        return texts[rng.integers(len(texts))]


def draw_indices(source: Source, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` images of a source, ``per_class`` of each drawn class: all classes alike."""
    classes = math.ceil(count / source.per_class)
    repeats = math.ceil(classes / len(source.members))
    order = np.concatenate([rng.permutation(len(source.members)) for _ in range(repeats)])
    drawn = [
        rng.choice(members, source.per_class, replace=len(members) < source.per_class)
        for members in (source.members[i] for i in order[:classes])
    ]
    return np.concatenate(drawn)[:count]


def augment(images: Tensor, source: Source, strength: float, generator: torch.Generator) -> Tensor:
    """Random crop, turn, flip and colour of uint8 images (B, 3, S, S) -> (B, 3, RESOLUTION, ...).

    strength 1 is the source's own amount; towards 0 crops near the whole image.
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    scale = uniform(1 - strength * (1 - source.min_crop), 1)
    stretch = torch.exp(uniform(-0.18, 0.18) * strength)
    scale_x, scale_y = (scale * stretch).clamp(max=1), (scale / stretch).clamp(max=1)
    angle = torch.deg2rad(uniform(-source.max_angle, source.max_angle) * strength)
    if source.quarter_turns:
        angle = angle + math.pi / 2 * torch.randint(4, (count,), generator=generator)
    flip = torch.randint(2, (count,), generator=generator) * 2.0 - 1
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = flip * cos * scale_x, -flip * sin * scale_y
    theta[:, 1, 0], theta[:, 1, 1] = sin * scale_x, cos * scale_y
    theta[:, 0, 2] = uniform(-1, 1) * (1 - scale_x)
    theta[:, 1, 2] = uniform(-1, 1) * (1 - scale_y)
    grid = F.affine_grid(theta, [count, 3, RESOLUTION, RESOLUTION], align_corners=False)
    pixels = F.grid_sample(
        images.float().div_(255),
        grid,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    jitter = 0.5 if source.name == "drawn" else 1.0  # a drawn picture's caption names its colour
    brightness = uniform(1 - 0.25 * jitter, 1 + 0.25 * jitter, 1, 1, 1)
    contrast = uniform(1 - 0.3 * jitter, 1 + 0.3 * jitter, 1, 1, 1)
    channel = uniform(1 - 0.12 * jitter, 1 + 0.12 * jitter, 1, 1, 1).expand(-1, 3, -1, -1)
    channel = channel + (torch.rand(count, 3, 1, 1, generator=generator) - 0.5) * 0.16 * jitter
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = ((pixels - mean) * contrast + mean) * brightness * channel
    return normalise(pixels.clamp_(0, 1))


def normalise(pixels: Tensor) -> Tensor:
    """Pixels in 0 .. 1 -> what the model takes."""
    return (pixels - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
