"""Ablations of ANPrompt, base-to-new: the whole method, then one change at a time.

    python -m anprompt ablations [DATASET [SEEDS [NAME ...]]]

DATASET is a file of configs/datasets (default: shapes, which needs no data), SEEDS a list (default:
1,2,3), NAME a file of configs/trainers/ANPrompt/ablations (default: all of them). It ends with a
table, also in OUTPUT/ablations.md (OUTPUT: output_ablations in the repository unless the
environment names another folder).
"""

import sys

from anprompt.commands import sweep, table
from common.cli import CommandParser
from common.errors import UsageError
from common.names import nearest
from common.paths import ROOT

METHOD = "ANPrompt"
FOLDER = ROOT / "configs/trainers" / METHOD / "ablations"


def main(argv: list[str]) -> int:
    """Run ``anprompt ablations``; returns the exit status."""
    parser = CommandParser(
        prog="anprompt ablations",
        description=__doc__,
    )
    parser.add_argument("dataset", nargs="?", default="shapes", metavar="DATASET")
    parser.add_argument("seeds", nargs="?", default="1,2,3", metavar="SEEDS")
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args(argv)
    names = given.names
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    for name in names:
        if name not in known:
            near = nearest(name, known)
            hint = f"nearest: {', '.join(near)}; " if near else ""
            raise UsageError(f"no ablation {name!r}; {hint}there are: {', '.join(known)}")
    configs = ["vit_b16", *(f"ablations/{name}" for name in names or known)]
    flags = ["base2new", "--methods", METHOD, "--datasets", given.dataset, "--seeds", given.seeds]
    flags += ["--cfg", f"{METHOD}={','.join(configs)}"]
    args, options = sweep.parse(flags, sweep.make_parser("ablations"), output="output_ablations")
    status = sweep.run(args, options)
    output = args.environment.output
    if status > 1 or args.environment.is_dry_run:
        return status
    file = f"{output}/ablations.md"
    print(flush=True)
    table.main([output, "--output", file])
    sys.stdout.flush()
    print(f"\nThe table is in {file}.", file=sys.stderr)
    return status
