"""Pretrain, export and evaluate the bundled small CLIP.

    python tools/pretrain_small_clip.py --data DIR
    python tools/pretrain_small_clip.py --evaluate --data DIR

The model is CLIP in OpenAI's layout at laptop size: 48x48 pixels, patches of 8, twelve blocks of
width 128 in each tower, a joint space of 128. What it sees is described in ``pretrain_world``.

Three things make half an hour on two cores go far: image blocks see a random half of the patches
until the last part of training [0], one caption serves all images of its class in a batch, and the
blocks' matrices are trained by Muon (``muon``).

References:
    [0] Li et al., Scaling Language-Image Pre-training via Masking, 2023,
        https://arxiv.org/abs/2212.00794
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402

from clip.clip import PIXEL_MEAN, PIXEL_STD  # noqa: E402
from clip.loading import load_model, to_openai_layout  # noqa: E402
from clip.model import CLIP, VisionTransformer, build_model  # noqa: E402
from clip.simple_tokenizer import SimpleTokenizer  # noqa: E402
from common.files import atomic_write  # noqa: E402
from tools.muon import Muon  # noqa: E402
from tools.pretrain_world import Source, World, build_world  # noqa: E402
from tools.zero_shot import Evaluation, markdown  # noqa: E402

RESOLUTION, PATCH, WIDTH, LAYERS, EMBED, CONTEXT = 48, 8, 128, 12, 128, 77
START, END = 49406, 49407
LONGEST = 26  # tokens; longer descriptions are cut in training
SHORT = 12  # captions up to this many tokens run apart from longer ones, which saves padding
DEFAULT_OUT = ROOT / "clip" / "small" / "small_clip.safetensors"


def new_model(n_tokens: int, seed: int) -> CLIP:
    """An untrained model with a token table of ``n_tokens`` rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = WIDTH // 64
        visual = VisionTransformer(RESOLUTION, PATCH, WIDTH, LAYERS, heads, EMBED)
        return CLIP(EMBED, visual, CONTEXT, n_tokens, WIDTH, heads, LAYERS)


def keep_freed_memory() -> None:
    """Let the C library keep freed memory instead of handing it back after every large tensor.

    Where fresh pages are costly (virtual machines), steps are otherwise several times as slow. Does
    nothing where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2
    mallopt(arena_max, 1)
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**28)


class Captions:
    """All captions of a world as rows of token ids, in a vocabulary of the seen tokens only."""

    def __init__(self, world: World):
        encode = SimpleTokenizer().encode
        tokens = {}
        for text in tqdm(world.all_texts(), desc="reading captions", leave=False):
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
        with atomic_write(path, "wb") as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: not a checkpoint of this tool, or one of another world or seed.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            same = torch.equal(state["token_ids"], self.captions.ids)
        except Exception as error:  # torch.load raises many kinds for a damaged file
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"{path} is not a checkpoint of this tool: {reason}") from None
        if not same or state["seed"] != self.seed:
            raise ValueError(
                f"{path} was trained with other captions or another seed; use a new --work"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.samples, self.seconds = state["step"], state["samples"], state["seconds"]


def export(model: CLIP, token_ids: Tensor, path: Path) -> None:
    """Write fp16 weights in OpenAI's layout, the token table reduced to the rows ``token_ids``."""
    tensors = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
    }
    tensors["token_embedding.ids"] = token_ids.to(torch.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, str(temporary))
    temporary.chmod(0o644)
    os.replace(temporary, path)


def full_model(model: CLIP, token_ids: Tensor) -> CLIP:
    """A copy of a model in training, with the whole token table."""
    tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
    tensors["token_embedding.ids"] = token_ids
    return build_model(to_openai_layout(tensors, Path("the model in training")))


def train(args: argparse.Namespace) -> int:
    keep_freed_memory()
    world = build_world(args.data, drawn=args.drawn, seed=args.seed)
    recipe = Recipe(batch_size=args.batch_size)
    training = Training(world, recipe, args.seed)
    checkpoint = args.work / "checkpoint.pt"
    if checkpoint.is_file():
        if not args.resume:
            raise ValueError(
                f"{checkpoint} exists: --resume continues it, another --work starts anew"
            )
        training.load(checkpoint)
        print(f"resuming at step {training.step}, {training.seconds / 60:.1f} minutes trained")
    counts = ", ".join(f"{source.name} {len(source.images)}" for source in world.sources)
    print(f"images: {counts}; text classes: {len(world.captions)}", flush=True)
    print(f"distinct tokens in captions: {len(training.captions.ids)}", flush=True)

    planned = args.samples + recipe.tail_steps * recipe.batch_size
    bar = tqdm(total=planned, initial=training.samples, unit="image", desc="pretraining")
    last_saved = last_exported = last_checked = training.seconds
    mean_loss = evaluation = None
    clock = time.monotonic()
    last_step = math.ceil(args.samples / recipe.batch_size) + recipe.tail_steps
    while training.step < min(last_step, args.max_steps):
        loss = training.run_step(training.samples / args.samples)
        now = time.monotonic()
        training.seconds += now - clock
        clock = now
        mean_loss = loss if mean_loss is None else 0.98 * mean_loss + 0.02 * loss
        bar.update(training.samples - bar.n)
        bar.set_postfix(
            loss=f"{mean_loss:.3f}",
            scale=f"{training.model.logit_scale.exp().item():.1f}",
        )
        if training.seconds - last_saved > args.save_every:
            training.save(checkpoint)
            last_saved = training.seconds
        if args.export_every and training.seconds - last_exported > args.export_every:
            export(training.model, training.captions.ids, args.out)
            last_exported = training.seconds
        if args.check_every and training.seconds - last_checked > args.check_every:
            evaluation = evaluation or Evaluation(args.data, "val", RESOLUTION)
            rows = evaluation(full_model(training.model, training.captions.ids))
            figures = ", ".join(f"{row['data set']} {row['accuracy %']}" for row in rows)
            tqdm.write(
                f"{training.seconds / 60:5.1f} min, {training.samples} samples, "
                f"loss {mean_loss:.3f}; zero-shot on val: {figures}"
            )
            last_checked = training.seconds
            clock = time.monotonic()  # checking is not training
    bar.close()
    training.save(checkpoint)
    export(training.model, training.captions.ids, args.out)
    print(
        f"{training.step} steps, {training.samples} samples, {training.seconds / 60:.1f} minutes; "
        f"wrote {args.out} ({args.out.stat().st_size / 2**20:.1f} MiB)"
    )
    return 0


def evaluate(args: argparse.Namespace) -> int:
    if not args.out.is_file():
        raise FileNotFoundError(f"{args.out} not found; train first, or name weights with --out")
    model = load_model(str(args.out))
    rows = Evaluation(args.data, args.split, model.visual.input_resolution)(model)
    print(markdown(rows))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="A killed run continues with the same command and --resume, and ends in the same "
        "weights. Without --data, only drawn pictures are trained on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with caltech-101/, eurosat/, tiny-imagenet/, descriptions/ (train splits are "
        "trained on; val and test only evaluated)",
    )
    parser.add_argument(
        "--samples", type=int, default=300_000, help="training images to see, repeats counted"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="weights file")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "output" / "pretrain", help="folder of the checkpoint"
    )
    parser.add_argument("--resume", action="store_true", help="continue the checkpoint in --work")
    parser.add_argument("--seed", type=int, default=1, help="of weights, batches, drawn pictures")
    parser.add_argument("--batch-size", type=int, default=256, help="images in a batch")
    parser.add_argument("--drawn", type=int, default=24000, help="number of drawn pictures")
    parser.add_argument("--max-steps", type=int, default=10**9, help="stop after this many steps")
    parser.add_argument("--save-every", type=float, default=60, help="seconds between checkpoints")
    parser.add_argument(
        "--export-every", type=float, default=600, help="seconds between early exports; 0: never"
    )
    parser.add_argument(
        "--check-every", type=float, default=300, help="seconds between checks on val; 0: never"
    )
    parser.add_argument("--evaluate", action="store_true", help="measure --out, train nothing")
    parser.add_argument(
        "--split", choices=("test", "val", "train"), default="test", help="for --evaluate"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        return evaluate(args) if args.evaluate else train(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
