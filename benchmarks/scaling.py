"""How a training step's time and memory grow with the number of classes; a table and a plot.

The plain path stops growing where it would exceed ``--plain-up-to`` classes: it takes 15 GB at 500
on a ViT-B/16.

    python -m benchmarks.scaling --trainer CoOp --counts 10,50,200,500,1000 --plain-up-to 200 \\
        --plot scaling.svg

With --ranks it measures what the processes of torchrun save of the text part instead: features of
--classes classes and the gradients they have, one thread to a process.

    python -m benchmarks.scaling --ranks 1,2 --classes 500
"""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks import measure
from benchmarks.ranks import measure_ranks
from benchmarks.step_time import measure_steps

COLOURS = {"fast": "#1b6ca8", "plain": "#b5651d"}


def plot(series: dict[str, list[tuple[float, float]]], title: str, path: Path) -> None:
    """Write lines over logarithmic axes, classes across and seconds a step up, to a file.

    Args:
        series: points by path; all numbers above 0.
        path: its ending says the format (svg, pdf, png).
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        axes.loglog(*zip(*points, strict=True), "o-", color=COLOURS[name], label=name, gid=name)
    classes = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(classes, [f"{x:g}" for x in classes], minor=False)
    axes.set_xticks([], minor=True)
    axes.set(title=title, xlabel="classes", ylabel="seconds a step")
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: list[str] | None = None) -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--counts", default="10,50,200,500,1000", help="of classes, by commas")
    parser.add_argument("--plain-up-to", type=int, default=200, help="classes (default 200)")
    parser.add_argument("--rounds", type=int, default=3, help="steps that are timed, per path")
    parser.add_argument("--skip-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--plot", help="write the plot to this file (.svg, .pdf, .png)")
    parser.add_argument("--ranks", help="numbers of processes, by commas: measure these instead")
    args = parser.parse_args(arguments)
    if args.ranks:
        work = measure.workload(args)
        with measure.scratch(args.scratch) as folder:
            rows = measure_ranks(work, folder, [int(n) for n in args.ranks.split(",")], args.rounds)
        measure.report(rows, {"workload": work.as_dict()}, args.json)
        return
    rows, series = [], {}
    with measure.scratch(args.scratch) as folder:
        for classes in map(int, args.counts.split(",")):
            work = measure.workload(args).with_(classes=classes)
            paths = measure.PATHS if classes <= args.plain_up_to else ("fast",)
            for row in measure_steps(work, folder, args.rounds, paths, memory=not args.skip_memory)[
                "rows"
            ]:
                rows.append(row)
                series.setdefault(row["path"], []).append((classes, row["s/step"]))
    measure.report(rows, {"workload": measure.workload(args).as_dict()}, args.json)
    if args.plot:
        name = f"{args.trainer}, {args.backbone}, batch {args.batch}, {args.device}"
        plot(series, name, Path(args.plot))


if __name__ == "__main__":
    main()
