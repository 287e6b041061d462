"""Mean and standard deviation of the runs below a folder, one subfolder a seed.

Reads what a run of this repository left (results.json) and log.txt of upstream runs: CoOp, CoCoOp,
MaPLe, PromptSRC, MMRL ("Finish training" as well as "Finished training"). Where a run was taken up
again, upstream's logger started a second file, log.txt-DATE: the latest file with a result counts.

    python parse_test_res.py output/base2new/train_base/eurosat/shots_16/CoOp/vit_b16_ctxv1
    python parse_test_res.py output/base2new/test_new/... --test-log        logs of evaluations
    python parse_test_res.py output/base2new/train_base --multi-exp         one folder up: several
"""

import argparse
import json
import math
import re
import statistics
import sys
from pathlib import Path

END_OF_TRAINING = ("Finish training", "Finished training")
START_OF_RESULT = "=> result"


def parse_log(path: Path, keyword: str = "accuracy", is_test_log: bool = False) -> float | None:
    """The last ``* keyword: 12.3%`` of a log, in percent; None where the run did not get so far.

    Results printed while training went on do not count, unless ``is_test_log`` says that the log is
    of an evaluation, which has no training to finish.
    """
    pattern = re.compile(rf"\* {re.escape(keyword)}: ([\d.eE+-]+)%")
    counts = False
    value = None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = line.strip()
        counts = counts or line in END_OF_TRAINING or (is_test_log and line == START_OF_RESULT)
        match = pattern.search(line)
        if match and counts:
            value = float(match.group(1))
    return value


def read_run(folder: Path, keyword: str, is_test_log: bool) -> tuple[Path, float] | None:
    """The file a run's figure stands in and the figure, in percent; None where there is none."""
    results = folder / "results.json"
    if results.is_file():
        content = json.loads(results.read_text(encoding="utf-8"))
        if content.get("finished") is True and isinstance(content.get(keyword), int | float):
            return results, float(content[keyword])
    # Dates sort as text, and log.txt itself is the oldest.
    for log in sorted(folder.glob("log.txt*"), reverse=True):
        value = parse_log(log, keyword, is_test_log)
        if value is not None:
            return log, value
    return None


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
        raise ValueError(f"{folder}: no run below it has a result{hint}")
    mean = statistics.fmean(values)
    print(f"===\nSummary of directory: {folder}")
    print(f"* {args.keyword}: {mean:.2f}% +- {spread(values, args.ci95):.2f}% ({len(values)} runs)")
    print("===")
    return mean


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="folder whose subfolders are runs")
    parser.add_argument("--ci95", action="store_true", help="95%% interval instead of deviation")
    parser.add_argument("--test-log", action="store_true", help="logs are of evaluations")
    parser.add_argument("--multi-exp", action="store_true", help="subfolders hold folders of runs")
    parser.add_argument("--keyword", default="accuracy", help="accuracy, error or macro_f1")
    args = parser.parse_args(argv)
    try:
        if not args.multi_exp:
            summarise(args.directory, args)
            return 0
        means = [summarise(folder, args) for folder in _subfolders(args.directory)]
        if not means:
            raise ValueError(f"{args.directory}: no folder below it")
        print(f"Average performance\n* {args.keyword}: {statistics.fmean(means):.2f}%")
    except ValueError as error:
        print(f"parse_test_res.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
