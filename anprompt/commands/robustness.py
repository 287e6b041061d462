"""Evaluate trained models under noise in text and image.

    python -m anprompt robustness --model-dir RUN [RUN ...]
    python -m anprompt robustness --model-dir RUN --noise char,blur --severities 1,3,5 --seeds 1
    python -m anprompt robustness --model-dir RUN --noise all,pgd --images 200
    python -m anprompt robustness --model-dir output/base2new/train_base/shapes    every run below

Puts test images and prompts under noise, at severities 1 to 5, and measures what it does to each
model: accuracy per kind and severity, their mean, the drop from clean, how often the answer stays
the same, and calibration. All models meet the same noise. Results go to RUN/robustness.json; what
is there already is not measured again, so a stopped evaluation goes on where it was.

A model trained on base classes is measured on base and on new classes. The table's means leave out
kinds of noise and noise seeds that any of the compared models met in training; --all-kinds puts
them in. docs/ROBUSTNESS.md explains the measures.

exit status: 0 done, 2 bad input (one line says what), 130 interrupted.
"""

import argparse
import textwrap
from pathlib import Path

from anprompt.runs.arguments import add_model_options
from common.cli import CommandParser, shown_messages


def _names() -> str:
    """Return what ``--noise`` takes."""
    from anprompt.robustness.plan import ATTACKS, PRESETS
    from noise.cells import GROUPS

    lines = ["what --noise takes:"]
    for name, group in GROUPS.items():
        kinds = ", ".join(group.kinds)
        listed = f": {kinds}" if kinds and name not in ("text-name", "text-template") else ""
        lines += textwrap.wrap(
            f"{name}  {group.about}{listed}", 98, initial_indent="  ", subsequent_indent=" " * 6
        )
    lines.append("  single kinds by name; of other groups than text and image as imagenet-c:fog")
    lines.append("attacks, at the bounds of --eps:")
    lines += [f"  {name}  {attack.about}" for name, attack in ATTACKS.items()]
    presets = [
        f"  {name}  {', '.join(attacks)}" + (f" at {only}/255" if only else " at --eps")
        for name, (attacks, only) in PRESETS.items()
    ]
    return "\n".join([*lines, "presets:", *presets])


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt robustness",
        description=__doc__,
        epilog=_names(),
    )
    add = parser.add_argument
    add(
        "--model-dir",
        type=Path,
        nargs="+",
        required=True,
        metavar="RUN",
        help="folders of trained models, or folders that hold such folders",
    )
    add(
        "--noise",
        default="all",
        metavar="NOISE",
        help="groups, kinds, attacks and presets, separated by commas; see below (default: all, "
        "which is text, image, both and learned)",
    )
    add("--severities", default="1-5", metavar="S", help="1-5 (default) or 1,3,5")
    add(
        "--seeds",
        default="3",
        metavar="N",
        help="noise seeds: 3 (default) means 1 to 3; 4,7 or 4-6 means those",
    )
    add("--eps", default="1,4", metavar="E", help="bounds of attacks in 255ths (default 1,4)")
    add(
        "--classes",
        default="",
        metavar="PARTS",
        help="base, new or all; by default base,new for a model trained on base, else its own",
    )
    add("--images", type=int, metavar="N", help="test images to use, evenly over the classes")
    add("--attack-images", type=int, metavar="N", help="images to attack, of those (default: all)")
    add("--descriptions", type=Path, metavar="JSON", help="{class name: [sentences]}, for "
        "kind description")  # fmt: skip
    add("--templates", type=Path, metavar="FILE", help="phrasings for kind phrasing: JSON, or one "
        "a line (default: this project's forty)")  # fmt: skip
    add("--released", type=Path, metavar="DIR", help="the released ImageNet-C, for imagenet-c-disk")
    add("--nearest", action="store_true", help="ImageNet-C on pictures of other sizes than 224, 64 "
        "and 32: take the nearest parameters")  # fmt: skip
    add(
        "--as-jpeg",
        action=argparse.BooleanOptionalAction,
        help="ImageNet-C in memory: save pictures as JPEG 85 and read them again (default: as the "
        "released ones of that size were)",
    )
    add("--batch-size", type=int, default=100, metavar="B")
    add("--workers", type=int, default=0, metavar="W", help="processes that prepare images")
    add("--all-kinds", action="store_true", help="table: means over all kinds, seen or not")
    add("--redo", action="store_true", help="measure anew the classes that are asked for; "
        "of another checkpoint than before, all that were measured")  # fmt: skip
    add_model_options(parser)
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt robustness``; returns the exit status."""
    args = make_parser().parse_args(argv)
    # After parsing: --help and misspelt flags need no torch.
    from anprompt.results import render
    from anprompt.results.noise.compare import compare
    from anprompt.results.noise.files import read_evaluations
    from anprompt.results.noise.tables import NOISE_NOTES, all_tables
    from anprompt.robustness.prepare import evaluate_runs

    with shown_messages("anprompt.robustness"):
        folders, subsets = evaluate_runs(args)
    evaluations = [found for folder in folders for found in read_evaluations(folder)]
    comparisons = compare(
        [found for found in evaluations if found.subset in subsets], args.all_kinds
    )
    tables = all_tables(comparisons, args.all_kinds)
    print(render.text(tables, NOISE_NOTES), end="")
    return 0
