"""Mean and standard deviation of the runs below a folder, one subfolder a seed.

Reads what a run of this repository left (results.json) and log.txt of upstream runs: CoOp, CoCoOp,
MaPLe, PromptSRC, MMRL ("Finish training" as well as "Finished training"). Where a run was taken up
again, upstream's logger started a second file, log.txt-DATE: the latest file with a result counts.

    python parse_test_res.py output/base2new/train_base/eurosat/shots_16/CoOp/vit_b16_ctxv1
    python parse_test_res.py output/base2new/test_new/... --test-log        logs of evaluations
    python parse_test_res.py output/base2new/train_base --multi-exp         one folder up: several
"""

import argparse
import math
import statistics
import sys
from pathlib import Path

from anprompt.results.logs import final_result, parse_log
from anprompt.runs.folder import RESULTS, read_results
from common import cli
from common.errors import UsageError

__all__ = ["parse_log", "read_run", "spread", "summarise"]


def read_run(folder: Path, keyword: str, is_test_log: bool) -> tuple[Path, float] | None:
    """The file a run's figure stands in and the figure, in percent; None where there is none."""
    results = read_results(folder)
    if results and isinstance(results.get(keyword), int | float):
        return folder / RESULTS, float(results[keyword])
    return final_result(folder, keyword, is_test_log)


def spread(values: list[float], ci95: bool = False) -> float:
    """Population standard deviation, or the half width of the 95% interval of the mean."""
    deviation = statistics.pstdev(values)
    return 1.96 * deviation / math.sqrt(len(values)) if ci95 else deviation


def summarise(folder: Path, args: argparse.Namespace) -> float:
    """Print every run below ``folder`` and their summary; returns the mean.

    Raises:
        ValueError: there is no run with a result.
    """
    print(f"Parsing files in {folder}")
    values = []
    for subfolder in _subfolders(folder):
        found = read_run(subfolder, args.keyword, args.test_log)
        if found is None:
            print(f"{subfolder}: no {args.keyword} (not finished?); left out")
            continue
        print(f"file: {found[0]}. {args.keyword}: {found[1]:.2f}%.")
        values.append(found[1])
    if not values:
        hint = "" if args.test_log else "; logs of evaluations need --test-log"
        raise UsageError(f"{folder}: no run below it has a result{hint}")
    mean = statistics.fmean(values)
    print(f"===\nSummary of directory: {folder}")
    print(f"* {args.keyword}: {mean:.2f}% +- {spread(values, args.ci95):.2f}% ({len(values)} runs)")
    print("===")
    return mean


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def main(argv: list[str]) -> int:
    """Run the command line ``argv``; returns the exit status."""
    parser = cli.CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="folder whose subfolders are runs")
    parser.add_argument("--ci95", action="store_true", help="95%% interval instead of deviation")
    parser.add_argument("--test-log", action="store_true", help="logs are of evaluations")
    parser.add_argument("--multi-exp", action="store_true", help="subfolders hold folders of runs")
    parser.add_argument("--keyword", default="accuracy", help="accuracy, error or macro_f1")
    args = parser.parse_args(argv)
    if not args.multi_exp:
        summarise(args.directory, args)
        return 0
    means = [summarise(folder, args) for folder in _subfolders(args.directory)]
    if not means:
        raise UsageError(f"{args.directory}: no folder below it")
    print(f"Average performance\n* {args.keyword}: {statistics.fmean(means):.2f}%")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "parse_test_res.py"))
