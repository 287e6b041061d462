"""The vocabulary's words nearest to a learned context, as CoOp's interpret_prompt gives them.

    python -m anprompt interpret RUN
    python -m anprompt interpret RUN --top 3 --csv > words.csv

For each learned vector that stands where a word's embedding would: the nearest entries of CLIP's
vocabulary and their Euclidean distances. </w> ends a word; entries without it are parts of words.
Distances say how far away the words are, usually too far to mean much: compare with "between
words", the mean distance from a word to its nearest other. RUN is a training or an evaluation of a
method that learns such vectors (CoOp, CoCoOp, KgCoOp, MaPLe, IVLP, ...).

exit status: 0 done, 2 bad input.
"""

import argparse
import csv
import sys
from pathlib import Path

from tabulate import tabulate

from anprompt.runs.arguments import add_model_options
from common.cli import CommandParser
from common.errors import UsageError

HEADERS = ("class", "vector", "rank", "word", "distance")
SAMPLE = 256  # words that the distance between words is measured on


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt interpret",
        description=__doc__,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run, or a safetensors export")
    add("--top", type=int, default=5, metavar="K", help="words per vector (default 5)")
    add("--csv", action="store_true", help="print CSV")
    add_model_options(parser)
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt interpret``; return the exit status."""
    args = make_parser().parse_args(argv)
    if args.top < 1:
        raise UsageError(f"--top {args.top}: give 1 or more")
    import torch

    from anprompt.runs.config import load_plugin
    from anprompt.runs.predictor import Predictor
    from clip.simple_tokenizer import SimpleTokenizer

    for plugin in args.plugin:
        load_plugin(plugin)
    predictor = Predictor.load(args.run, None, args.root, args.load_epoch, portable=True)
    model = predictor.trained.model
    context = model.prompt_learner.word_context()
    if context is None:
        name = predictor.trained.cfg.TRAINER.NAME
        raise UsageError(f"{name} learns no vectors that stand in the place of words")
    context = context.detach().float()
    words = model.clip.token_embedding.weight.float()
    decoder = SimpleTokenizer().decoder
    rows = []
    groups = context[None] if context.dim() == 2 else context
    for number, vectors in enumerate(groups):
        near = torch.cdist(vectors, words).topk(min(args.top, len(words)), largest=False)
        owner = "all" if context.dim() == 2 else predictor.classnames[number]
        for vector, (distances, ids) in enumerate(zip(near.values, near.indices, strict=True)):
            pairs = zip(distances.tolist(), ids.tolist(), strict=True)
            for rank, (distance, token) in enumerate(pairs, start=1):
                rows.append([owner, vector + 1, rank, decoder[token], f"{distance:.4f}"])
    if args.csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows([HEADERS, *rows])
        return 0
    print(tabulate(rows, HEADERS, tablefmt="simple", disable_numparse=True))
    some = words[:: max(1, len(words) // SAMPLE)]
    between = torch.cdist(some, words).topk(2, largest=False).values[:, 1].mean()
    print(f"between words: {between:.4f}")
    return 0
