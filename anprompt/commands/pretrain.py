"""Pretrain, export and evaluate the bundled small CLIP.

    python -m anprompt pretrain --data DIR
    python -m anprompt pretrain --evaluate --data DIR

The model is CLIP in OpenAI's layout at laptop size: 48x48 pixels, patches of 8, twelve blocks of
width 128 in each tower, a joint space of 128. What it sees is described in
``pretraining/world.py``, how it learns in ``pretraining/training.py``.
"""

import argparse
import ctypes
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from anprompt.pretraining.batches import RESOLUTION
from anprompt.pretraining.training import Recipe, Training
from anprompt.pretraining.world import build_world
from anprompt.pretraining.zero_shot import Evaluation, markdown
from clip import load_model
from clip.model import CLIP, build_model
from clip.weights.layouts import to_openai_layout
from clip.weights.names import BUNDLED, write_digest
from common.cli import CommandParser
from common.errors import UsageError
from common.files import atomic_write
from common.paths import ROOT


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


def export(model: CLIP, token_ids: Tensor, path: Path) -> None:
    """Write fp16 weights in OpenAI's layout, the token table reduced to the rows ``token_ids``.

    The file's digest is written beside it.
    """
    tensors = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in model.state_dict().items()
    }
    tensors["token_embedding.ids"] = token_ids.to(torch.int32)
    with atomic_write(path, "wb") as file:
        file.write(save(tensors))
    write_digest(path)


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
            raise UsageError(
                f"{checkpoint} exists: --resume continues it, another --work starts anew"
            )
        training.load(checkpoint)
        print(f"resuming at step {training.step}, {training.seconds / 60:.1f} minutes trained")
    counts = ", ".join(f"{source.name} {len(source.images)}" for source in world.sources)
    print(f"images: {counts}; text classes: {len(world.captions)}", flush=True)
    print(f"distinct tokens in captions: {len(training.captions.ids)}", flush=True)

    planned = args.samples + recipe.tail_steps * recipe.batch_size
    bar = tqdm(
        total=planned, initial=training.samples, unit="image", desc="pretraining", disable=None
    )
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
    parser = CommandParser(
        prog="anprompt pretrain",
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
    parser.add_argument("--out", type=Path, default=BUNDLED, help="weights file")
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


def main(argv: list[str]) -> int:
    """Run ``anprompt pretrain``; returns the exit status."""
    args = build_parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    return evaluate(args) if args.evaluate else train(args)
