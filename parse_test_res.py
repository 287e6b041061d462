"""Mean and standard deviation of the runs below a folder, one subfolder a seed.

Reads what a run of this repository left (results.json) and log.txt of upstream runs: CoOp, CoCoOp,
MaPLe, PromptSRC, MMRL ("Finish training" as well as "Finished training"). Where a run was taken up
again, upstream's logger started a second file, log.txt-DATE: the latest file with a result counts.

    python parse_test_res.py output/base2new/train_base/eurosat/shots_16/CoOp/vit_b16_ctxv1
    python parse_test_res.py output/base2new/test_new/... --test-log        logs of evaluations
    python parse_test_res.py output/base2new/train_base --multi-exp         all such folders below

exit status: 0 done, 1 an experiment of --multi-exp has no result (the others are averaged), 2 bad
input (one line says what).
"""

import argparse
import statistics
import sys
from pathlib import Path

from anprompt.results.logs import final_result, parse_log
from anprompt.runs.recorded import CONFIG, RESULTS, read_results
from common import cli
from common.errors import UsageError
from common.schema import PERCENT, mismatch

MEASURES = ("accuracy", "error", "macro_f1", "average")  # average: over classes, in logs alone

__all__ = ["parse_log", "read_run", "spread", "summarise"]


def read_run(folder: Path, keyword: str, is_test_log: bool) -> tuple[Path, float] | None:
    """Return the file of a run's figure, and the figure in percent; None where there is none.

    Raises:
        UsageError: the file cannot be read, or the figure is no share.
    """
    results = read_results(folder) or {}
    if keyword in results:
        problem = mismatch(results, {keyword: PERCENT})
        if problem:
            raise UsageError(f"{folder / RESULTS}: {problem}; remove it and run again")
        return folder / RESULTS, float(results[keyword])
    return final_result(folder, keyword, is_test_log)


def spread(values: list[float], ci95: bool = False) -> float:
    """Return population standard deviation, or the half width of the 95% interval of the mean."""
    deviation = statistics.pstdev(values)
    return 1.96 * deviation / len(values) ** 0.5 if ci95 else deviation


def summarise(folder: Path, args: argparse.Namespace) -> float | None:
    """Print every run below ``folder`` and their summary.

    Returns:
        the mean; None where no run has a result.
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
        return None
    mean = statistics.fmean(values)
    print(f"===\nSummary of directory: {folder}")
    print(f"* {args.keyword}: {mean:.2f}% +- {spread(values, args.ci95):.2f}% ({len(values)} runs)")
    print("===")
    return mean


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _experiments(folder: Path) -> list[Path]:
    """Return folders of runs, however deep; one that holds no run at all stands for itself."""
    found = []
    for subfolder in _subfolders(folder):
        runs = {
            path.parent
            for name in (RESULTS, CONFIG, "log.txt*")
            for path in subfolder.rglob(name)
            if path.is_file() and path.parent != subfolder
        }
        found += sorted({run.parent for run in runs}) or [subfolder]
    return found


def main(argv: list[str]) -> int:
    """Run the command line ``argv``; returns the exit status."""
    parser = cli.CommandParser(description=__doc__)
    add = parser.add_argument
    add("directory", type=Path, help="folder whose subfolders are runs")
    add("--ci95", action="store_true", help="95%% interval instead of deviation")
    add("--test-log", action="store_true", help="logs are of evaluations")
    add("--multi-exp", action="store_true", help="folders of runs, however deep below")
    add("--keyword", default="accuracy", choices=MEASURES, help="measure that is summed up")
    args = parser.parse_args(argv)
    hint = "" if args.test_log else "; logs of evaluations need --test-log"
    if not args.multi_exp:
        if summarise(args.directory, args) is None:
            raise UsageError(f"{args.directory}: no run below it has a result{hint}")
        return 0
    means = {folder: summarise(folder, args) for folder in _experiments(args.directory)}
    known = [mean for mean in means.values() if mean is not None]
    if not known:
        raise UsageError(f"{args.directory}: no run below it has a result{hint}")
    print(f"Average performance\n* {args.keyword}: {statistics.fmean(known):.2f}%")
    for folder in (folder for folder, mean in means.items() if mean is None):
        print(f"{folder}: no run below it has a result; not in the average", file=sys.stderr)
    return 0 if len(known) == len(means) else 1


if __name__ == "__main__":
    cli.leave(cli.run(main, "parse_test_res.py"))
