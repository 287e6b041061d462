"""The model in training: its features, the loss, the recipe, a step, checkpoints.

Three things make half an hour on two cores go far: image blocks see a random half of the patches
until the last part of training [0], one caption serves all images of its class in a batch, and the
blocks' matrices are trained by Muon (``muon``).

References:
    [0] Li et al., Scaling Language-Image Pre-training via Masking, 2023,
        https://arxiv.org/abs/2212.00794
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.pretraining.batches import RESOLUTION, Captions, augment, draw_indices
from anprompt.pretraining.muon import Muon
from anprompt.pretraining.world import World
from clip.model import CLIP, VisionTransformer
from common.errors import UsageError, one_line
from dassl.utils.torchtools import write_tensors

PATCH, WIDTH, LAYERS, EMBED, CONTEXT = 8, 128, 12, 128, 77
SHORT = 12  # captions up to this many tokens run apart from longer ones, which saves padding


def new_model(n_tokens: int, seed: int) -> CLIP:
    """An untrained model with a token table of ``n_tokens`` rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = WIDTH // 64
        visual = VisionTransformer(RESOLUTION, PATCH, WIDTH, LAYERS, heads, EMBED)
        return CLIP(EMBED, visual, CONTEXT, n_tokens, WIDTH, heads, LAYERS)


def image_features(
    model: CLIP, images: Tensor, keep: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Image features from ``keep`` random patches (all, if None), not normalised."""
    tokens = model.visual.embed(images)  # (B, 1 + patches, D)
    patches = tokens.shape[1] - 1
    if keep is not None and keep < patches:
        order = torch.rand(len(tokens), patches, generator=generator).argsort(dim=1)[:, :keep] + 1
        order = torch.cat([torch.zeros(len(tokens), 1, dtype=torch.long), order], dim=1)
        tokens = tokens.gather(1, order.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
    tokens = model.visual.transformer.run(model.visual.ln_pre(tokens), keep=slice(0, 1))
    return model.visual.project(tokens[:, 0])


def text_features(model: CLIP, rows: list[list[int]]) -> Tensor:
    """Text features (len(rows), EMBED) of token rows, each run no longer than it needs."""
    features = model.text_projection.new_empty(len(rows), EMBED)
    for group in (
        [i for i, row in enumerate(rows) if len(row) <= SHORT],
        [i for i, row in enumerate(rows) if len(row) > SHORT],
    ):
        if not group:
            continue
        ends = torch.tensor([len(rows[i]) - 1 for i in group])
        tokens = torch.zeros(len(group), int(ends.max()) + 1, dtype=torch.long)
        for line, i in enumerate(group):
            tokens[line, : len(rows[i])] = torch.tensor(rows[i])
        x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
        x = model.transformer.run(x)[torch.arange(len(group)), ends]
        own = model.ln_final(x) @ model.text_projection
        features = features.index_put((torch.tensor(group),), own)
    return features


def contrastive_loss(logits: Tensor, target: Tensor) -> Tensor:
    """CLIP's symmetric loss where each text (column) stands for all images of its class.

    logits: (B, K) images by distinct captions; target: (B,) each image's caption.
    """
    images_to_texts = F.cross_entropy(logits, target)
    positives = F.one_hot(target, logits.shape[1]).t().float()  # (K, B)
    positives = positives / positives.sum(dim=1, keepdim=True)
    texts_to_images = -(positives * logits.t().log_softmax(dim=1)).sum(dim=1).mean()
    return (images_to_texts + texts_to_images) / 2


@dataclass
class Recipe:
    """Knobs of training; fractions are of ``--samples``.

    After those come ``tail_steps`` that leave out the data sets that a benchmark would ask for
    (``Source.benchmark``). Without them zero-shot prompts are as good as anything that 16 images of
    a class can teach; with them, as for CLIP, the benchmark is not what was seen last.
    """

    batch_size: int = 256
    matrix_lr: float = 3e-3  # Muon, scaled to AdamW's update size
    other_lr: float = 1e-3  # AdamW
    scale_lr: float = 4e-3  # of the logit scale, which has far to go in few steps
    weight_decay: float = 0.1
    warmup: float = 0.02
    final_lr: float = 0.01
    keep_patches: int = 18
    masked_part: float = 0.9
    tail_steps: int = 15
    tail_lr: float = 0.3

    def lr_factor(self, progress: float) -> float:
        """Linear warm-up, then cosine; beyond 1, the tail's."""
        if progress >= 1:
            return self.tail_lr
        if progress < self.warmup:
            return max(progress / self.warmup, 0.02)
        after = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        return self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * after))


def build_optimizers(model: CLIP, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else."""
    matrices, decayed, others = [], [], []
    for name, parameter in model.named_parameters():
        if name == "logit_scale":
            continue
        if "resblocks" in name and parameter.ndim == 2:
            matrices.append(parameter)
        elif parameter.ndim >= 2 and "embedding" not in name:
            decayed.append(parameter)
        else:
            others.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
        {"params": [model.logit_scale], "weight_decay": 0.0, "lr": recipe.scale_lr},
    ]
    return [
        Muon(matrices, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(groups, lr=recipe.other_lr, betas=(0.9, 0.98)),
    ]


class Training:
    """State of a pretraining run, and one step of it."""

    def __init__(self, world: World, recipe: Recipe, seed: int):
        self.world, self.recipe, self.seed = world, recipe, seed
        self.captions = Captions(world)
        self.model = new_model(len(self.captions.ids), seed)
        self.optimizers = build_optimizers(self.model, recipe)
        self.base_lrs = [group["lr"] for o in self.optimizers for group in o.param_groups]
        self.step, self.samples, self.seconds = 0, 0, 0.0

    def run_step(self, progress: float) -> float:
        """One update at ``progress`` (0 .. 1, then the tail) of training; returns the loss.

        Randomness depends on seed and step alone, so a resumed run draws what it would have drawn.
        """
        recipe = self.recipe
        rng = np.random.default_rng([self.seed, self.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        factor = recipe.lr_factor(progress)
        groups = [group for o in self.optimizers for group in o.param_groups]
        for group, base in zip(groups, self.base_lrs, strict=True):
            group["lr"] = base * factor
        tail = progress >= 1
        masked = tail or progress < recipe.masked_part
        strength = 1.0 if masked else 0.7

        pixels, labels = [], []
        sources = [s for s in self.world.sources if not (tail and s.benchmark)]
        total = sum(source.share for source in sources)
        for source in sources:
            count = round(recipe.batch_size * source.share / total)
            indices = torch.from_numpy(draw_indices(source, count, rng))
            pixels.append(augment(source.images[indices], source, strength, generator))
            labels.append(source.labels[indices])
        distinct, target = torch.cat(labels).unique(return_inverse=True)
        rows = [self.captions.draw(label, rng) for label in distinct.tolist()]

        self.model.train()
        keep = recipe.keep_patches if masked else None
        images = F.normalize(image_features(self.model, torch.cat(pixels), keep, generator), dim=-1)
        texts = F.normalize(text_features(self.model, rows), dim=-1)
        logits = self.model.logit_scale.exp() * images @ texts.t()
        loss = contrastive_loss(logits, target)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        self.step += 1
        self.samples += len(target)
        return loss.item()

    def save(self, path: Path) -> None:
        """Write a checkpoint whole: a kill leaves the last one."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "token_ids": self.captions.ids,
            "step": self.step,
            "samples": self.samples,
            "seconds": self.seconds,
            "seed": self.seed,
        }
        write_tensors(state, path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            UsageError: not a checkpoint of this tool, or one of another world or seed.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            same = torch.equal(state["token_ids"], self.captions.ids)
        except Exception as error:  # torch.load raises many kinds for a damaged file
            reason = one_line(error)[:150]
            raise UsageError(f"{path} is not a checkpoint of this tool: {reason}") from None
        if not same or state["seed"] != self.seed:
            raise UsageError(
                f"{path} was trained with other captions or another seed; use a new --work"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.samples, self.seconds = state["step"], state["samples"], state["seconds"]
