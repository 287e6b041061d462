"""Tables of results: base, new and harmonic mean, mean and deviation over seeds.

    python tools/results.py                         every run below output/
    python tools/results.py output/base2new -o table.md
    python tools/results.py output/demo --methods ZeroshotCLIP,CoOp,ANPrompt --all-rules

Every figure comes from a run's results.json. Runs that are not finished are named and left out;
what no run gives is shown as missing. ``HM of means`` is the harmonic mean of the two averages over
seeds, as papers print it; ``mean of HMs`` averages each seed's own harmonic mean. A deviation (+-)
is that of the population (ddof 0), as parse_test_res.py and upstream print it.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.collect import Row, Run, average_rows, find_runs, make_rows

MISSING = "missing"
HEADER = ["method", "rule", "seeds", "base", "new", "HM of means", "mean of HMs"]


def _cells(row: Row) -> list[str]:
    figures = [row.base, row.new, row.hm_of_means, row.mean_of_hms]
    texts = [f"{figure:.2f}" if isinstance(figure, float) else figure for figure in figures]
    return [
        row.method,
        row.rule_label,
        row.seeds,
        *(MISSING if t is None else str(t) for t in texts),
    ]


def render_text(rows: list[Row], notes: list[str]) -> str:
    """Aligned columns for a terminal, one block for each data set."""
    table = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(cells: list[str]) -> str:
        left = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        return "  ".join(left + right).rstrip()

    blocks = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        body = [line(_cells(row)) for row in rows if row.dataset == dataset]
        rule = "-" * max(map(len, [line(HEADER), *body]))
        blocks.append("\n".join([f"Base to new: {dataset}", rule, line(HEADER), rule, *body, rule]))
    return "\n\n".join(blocks + (["\n".join(notes)] if notes else [])) + "\n"


def render_markdown(rows: list[Row], notes: list[str]) -> str:
    """A Markdown table for each data set."""
    blocks = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        lines = [HEADER, ["---", "---", *["---:"] * (len(HEADER) - 2)]]
        lines += [_cells(row) for row in rows if row.dataset == dataset]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        blocks.append(f"## Base to new: {dataset}\n\n{table}".replace("+-", "±"))
    return "\n\n".join(blocks + ["\n".join(f"- {note}" for note in notes)]) + "\n"


def render_csv(rows: list[Row], notes: list[str]) -> str:
    """One line a row, unrounded, empty where missing; the notes do not fit into CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    cells = ("base", "new", "mean_of_hms")
    columns = [f"{cell}_{figure}" for cell in cells for figure in ("mean", "std", "seeds")]
    writer.writerow(["dataset", "method", "rule", *columns, "hm_of_means"])
    for row in rows:
        figures: list = []
        for cell in cells:
            stat = getattr(row, cell)
            figures += [stat.mean, stat.std, len(stat.by_seed)] if stat else ["", "", 0]
        hm = "" if row.hm_of_means is None else row.hm_of_means
        writer.writerow([row.dataset, row.method, row.rule, *figures, hm])
    return out.getvalue()


RENDERERS = {"text": render_text, "markdown": render_markdown, "csv": render_csv}
FORMAT_OF_SUFFIX = {".md": "markdown", ".csv": "csv", ".txt": "text"}


def _notes(rows: list[Row], runs: list[Run], unfinished: list[Path]) -> list[str]:
    notes = []
    backbones = sorted({run.backbone for run in runs})
    shots = sorted({run.shots for run in runs})
    notes.append(
        f"Backbone {', '.join(backbones)}; {', '.join(map(str, shots))} shots; accuracy in %."
    )
    if any(stat and len(stat.by_seed) > 1 for row in rows for stat in (row.base, row.new)):
        notes.append("+- is the (population) standard deviation over seeds.")
    if any(row.rule_label != "-" for row in rows):
        notes.append(
            "rule: which logits decide. 'a / b' is the method's own protocol, a for base and b for "
            "new classes; it knows which half it is tested on."
        )
    notes += [f"not finished, left out: {folder}" for folder in unfinished]
    return notes


def _select_methods(runs: list[Run], methods: str) -> list[Run]:
    wanted = methods.split(",")
    unknown = set(wanted) - {run.trainer for run in runs}
    if unknown:
        there = ", ".join(sorted({run.trainer for run in runs})) or "none"
        raise ValueError(f"no finished run of {', '.join(sorted(unknown))}; there are: {there}")
    return [run for run in runs if run.trainer in wanted]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("output")])
    parser.add_argument("--methods", default="", help="trainers to show, in this order: A,B,C")
    parser.add_argument(
        "--all-rules", action="store_true", help="also one inference rule for all classes"
    )
    parser.add_argument("--format", choices=list(RENDERERS), default="text", help="of the output")
    parser.add_argument(
        "-o", "--output", type=Path, help="write here as well; .md, .csv or .txt says the format"
    )
    args = parser.parse_args(argv)
    try:
        if args.output and args.output.suffix not in FORMAT_OF_SUFFIX:
            raise ValueError(f"{args.output}: name a .md, .csv or .txt file")
        runs, unfinished = find_runs(args.folders)
        if args.methods:
            runs = _select_methods(runs, args.methods)
        rows = make_rows(runs, all_rules=args.all_rules)
        if not rows:
            where = ", ".join(map(str, args.folders))
            more = f" ({len(unfinished)} not finished)" if unfinished else ""
            raise ValueError(f"{where}: no finished run on base or new classes{more}")
    except ValueError as error:
        print(f"results.py: error: {error}", file=sys.stderr)
        return 2
    if args.methods:
        order = args.methods.split(",")
        rows.sort(key=lambda row: (row.dataset, order.index(row.method.split(" (")[0])))
    if len({row.dataset for row in rows}) > 1:
        rows += average_rows(rows)
    notes = _notes(rows, runs, unfinished)
    print(RENDERERS[args.format](rows, notes), end="")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        text = RENDERERS[FORMAT_OF_SUFFIX[args.output.suffix]](rows, notes)
        args.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
