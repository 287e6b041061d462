"""Finished runs of anomaly detection, and their tables: methods by category."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anprompt.protocols.layout import data_name, read_path
from anprompt.results.aggregate import average, seeds_left_out
from anprompt.results.comparable import (
    data_of,
    differing_runs,
    not_seeds_of_one_row,
    precision_notes,
    resumed_note,
    resumed_of,
    unlike_data,
)
from anprompt.results.method import Method, with_names
from anprompt.results.run import is_of_anomaly, without_backbone
from anprompt.results.table import Column, Row, Table
from anprompt.results.value import Value, count, ends, over_seeds
from anprompt.runs.recorded import (
    CONFIG,
    RESULTS,
    is_anomaly,
    known_shots,
    read_results,
    recorded_config,
    settings_in,
    training_of,
)
from common.errors import UsageError
from common.schema import WHOLE, Number, mismatch
from common.text import plain
from common.walk import folders_with

MEASURES = {
    "image_auroc": "Image AUROC in %",
    "image_ap": "Image AP in %",
    "pixel_auroc": "Pixel AUROC in %",
    "pixel_ap": "Pixel AP in %",
    "pixel_f1_max": "Pixel F1-max in % (its threshold is chosen on the same pixels)",
    "aupro": "AUPRO in %, false positives up to 30%",
}
SHOWN = ("image_auroc", "pixel_auroc", "aupro")  # where no measure is asked for

_DESCRIPTION = {
    "trainer": str,
    "dataset": str,
    "dataset_title?": str,
    "category": str,
    "backbone": str,
    "shots": WHOLE,
    "seed": WHOLE,
    "headline_rule?": str,
    "num_trainable?": Number(0),
    "epochs?": WHOLE,
    "device?": str,
    "scores?": {"file": str, "sha256": str},
    "seconds_per_image?": Number(0),
    "config?": {"RUN?": {"MODEL_DIR?": str, "LOAD_EPOCH?": Number(-1)}},
}
# What the seeds and categories of one row must differ in.
_OF_A_RUN = {"SEED", "RUN.MODEL_DIR", "RUN.EVAL_ONLY", "RUN.LOAD_EPOCH", "DATASET.CATEGORY"}
_OF_A_RUN |= {"DATASET.SHOTS_FROM", "TRAINER.ANOMALY.FUSE"}


@dataclass(frozen=True)
class AnomalyResult:
    """One finished run.

    Attributes:
        dataset: what tables call it.
        category: "" where the data set's folder is one itself.
        file: results.json.
        settings: the configuration, as dotted names.
        trained_with: that of the training behind it, its own where it trained itself.
    """

    folder: Path
    trainer: str
    config: str
    backbone: str
    dataset: str
    category: str
    shots: int
    seed: int
    file: str
    results: dict[str, Any] = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    trained_with: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def method(self) -> Method:
        """Return what tells methods apart."""
        return Method(self.trainer, self.config, self.backbone)

    @property
    def depends_on(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return its settings and those of its training, for `comparable.differing_runs`."""
        return self.settings, self.trained_with

    @property
    def data(self) -> dict[str, str]:
        """Return digests of its data, of runs that recorded them."""
        return data_of(self.results)

    @property
    def rules(self) -> list[str]:
        """Return the answers that were measured, the reported one first; [""] for the only one."""
        return list(self.results.get("rules") or [""])

    def value(self, metric: str, rule: str = "") -> Value | None:
        """Return a metric of an answer; None where there is none."""
        place = self.results["rules"].get(rule, {}) if rule else self.results
        key = f"rules/{rule}/{metric}" if rule else metric
        return Value(float(place[metric]), f"{self.file}#{key}") if metric in place else None


def find_anomaly_runs(
    paths: Iterable[Path],
) -> tuple[list[AnomalyResult], list[tuple[Path, str]]]:
    """Return the finished runs of anomaly detection below some folders, and the folders of those
    that no table shows, with the reason.

    An evaluation is passed over where it says again what its training's own test says.

    Raises:
        UsageError: a path does not exist, or a file is not what it should be.
    """
    folders: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path}: no such folder")
        folders.update(folders_with(path, [RESULTS, CONFIG]))
    runs, left_out = [], []
    for folder in sorted(folders):
        results = read_results(folder)
        if results is None and is_of_anomaly(folder):
            left_out.append((folder, "not finished"))
        if results is None or not is_anomaly(results):
            continue
        file = folder / RESULTS
        problem = mismatch(results, _DESCRIPTION)
        if problem:
            raise UsageError(f"{file}: not the results of a run ({problem}); remove it")
        settings = settings_in(results.get("config") or {})
        training = training_of(folder, settings)
        reason = _reason_to_leave_out(results, settings, training) if training else None
        if reason is not None:
            left_out += [(folder, reason)] if reason else []
            continue
        backbone = plain(results["backbone"])
        runs.append(
            AnomalyResult(
                folder=folder,
                trainer=plain(results["trainer"]),
                config=without_backbone(read_path(folder, results["trainer"]).config, backbone),
                backbone=backbone,
                dataset=_dataset(results),
                category=plain(results["category"]),
                shots=known_shots(results["shots"]),
                seed=results["seed"],
                file=file.as_posix(),
                results=results,
                settings=settings,
                trained_with=(recorded_config(training) or {}) if training else settings,
            )
        )
    return runs, left_out


def _dataset(results: Mapping[str, Any]) -> str:
    return plain(data_name(results["dataset"], results.get("dataset_title")))


def _reason_to_leave_out(
    results: Mapping[str, Any], settings: Mapping[str, Any], training: Path
) -> str | None:
    """Return why tables leave out an evaluation; "" where the training's test says the same, None
    where it stands for its training."""
    theirs = recorded_config(training) or {}
    trained_on, tested_on = (
        [own.get(f"DATASET.{key}") for key in ("NAME", "CATEGORY")] for own in (theirs, settings)
    )
    pairs = list(zip(trained_on, tested_on, strict=True))
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return " ".join(map(str, ("trained on", *trained_on, "and tested on", *tested_on)))
    tested = read_results(training)
    if tested is None:
        return None
    for key, _, now in differing_runs((theirs, theirs), (settings, theirs), _OF_A_RUN):
        return f"tests {training} once more, with {key} {now!r:.40}"
    asked = settings.get("RUN.LOAD_EPOCH", -1)
    epochs = results.get("epochs")
    if asked < 0 or (epochs is not None and epochs == tested.get("epochs")):
        return ""
    return f"reads epoch {asked} of {training}, which has a test of its own"


def left_out_notes(left_out: Iterable[tuple[Path, str]]) -> list[str]:
    """Return notes on folders that no table shows."""
    return [f"in no table: {folder} ({reason})" for folder, reason in left_out]


def anomaly_tables(
    runs: Sequence[AnomalyResult], metrics: Sequence[str] = (), methods: Sequence[str] = ()
) -> list[Table]:
    """Return a table for each data set, number of shots and metric; [] where no run has it.

    Behind those of a data set with several numbers of shots stand tables of its mean by shots.

    Args:
        metrics: of ``MEASURES``; by default those of ``SHOWN``.
        methods: trainers, in the order to show them.

    Raises:
        UsageError: runs that cannot share a row.
    """
    tables = []
    order = {trainer: i for i, trainer in enumerate(methods)}
    for dataset in sorted({run.dataset for run in runs}):
        own = [run for run in runs if run.dataset == dataset]
        by_metric: dict[str, dict[int, Table]] = {}
        for shots in sorted({run.shots for run in own}):
            for metric in metrics or SHOWN:
                these = [run for run in own if run.shots == shots]
                table = _table(these, dataset, shots, metric, order)
                if any(value for row in table.rows for value in row.values):
                    tables.append(table)
                    by_metric.setdefault(metric, {})[shots] = table
        tables += [_by_shots(found) for found in by_metric.values() if len(found) > 1]
    return tables


def _by_shots(tables: Mapping[int, Table]) -> Table:
    """Return the last columns of one metric's tables side by side."""
    first = next(iter(tables.values()))
    rows: dict[tuple[str, str], dict[int, Row]] = {}
    for shots, table in tables.items():
        for row in table.rows:
            rows.setdefault((row.name, row.rule), {})[shots] = row
    joined = []
    for own in rows.values():
        counts = ends(count for row in own.values() for count in row.counts)
        values = tuple(own[shots].values[-1] if shots in own else None for shots in tables)
        row = next(iter(own.values()))
        method = replace(row.method, shots=None)
        joined.append(replace(row, method=method, values=values, counts=counts))
    title, _, metric = first.title.rsplit(", ", 2)
    mean = ", mean over categories" if len(first.averaged) > 1 else ""
    return replace(
        first,
        title=f"{title}{mean}, {metric}",
        columns=[Column(_shots(shots)) for shots in tables],
        rows=joined,
    )


def _table(
    runs: Sequence[AnomalyResult], dataset: str, shots: int, metric: str, order: dict[str, int]
) -> Table:
    categories = sorted({run.category for run in runs})
    rows: dict[tuple[Method, str], dict[str, dict[int, AnomalyResult]]] = {}
    for run in runs:
        for rule in run.rules:
            seeds = rows.setdefault((run.method, rule), {}).setdefault(run.category, {})
            other = seeds.setdefault(run.seed, run)
            if other is not run:
                raise UsageError(
                    f"{run.folder} and {other.folder} are the same method, category and seed; name "
                    "only the folder of one"
                )
    names = with_names(method for method, _ in rows)
    several = len(categories) > 1
    found, computed = [], []
    for method, rule in sorted(
        rows, key=lambda key: (order.get(key[0].trainer, len(order)), names[key[0]].name, key[1])
    ):
        cells = rows[method, rule]
        _check_alike([run for seeds in cells.values() for run in seeds.values()])
        for own in cells.values():
            _check_same_test(list(own.values()))
        values = [
            over_seeds({seed: run.value(metric, rule) for seed, run in cells.get(c, {}).items()})
            for c in categories
        ]
        if several:
            computed.append((" ".join(filter(None, (names[method].name, rule))), list(values)))
            values.append(average(values))
        counts = ends(count([f"{run.file}#seed" for run in own.values()]) for own in cells.values())
        named = replace(names[method], shots=shots)
        found.append(Row(named, tuple(values), rule=rule, counts=counts))
    columns = [Column(category or "all") for category in categories]
    return Table(
        protocol="anomaly",
        title=f"Anomaly detection: {dataset}, {_shots(shots)}, {MEASURES[metric].split(' in ')[0]}",
        columns=[*columns, *([Column("mean")] if several else [])],
        rows=found,
        subject=dataset,
        averaged=categories,
        notes=[
            resumed_note(f"{run.trainer}, {run.category or 'all'}, seed {run.seed}", resumed)
            for run in runs
            if (resumed := resumed_of(run.results))
        ]
        + seeds_left_out(computed, "Means are over the seeds that all categories have")
        + _unlike_precisions(names, runs),
        measure=MEASURES[metric],
        has_rules=True,
    )


def _unlike_precisions(names: Mapping[Method, Method], runs: Sequence[AnomalyResult]) -> list[str]:
    return [
        note
        for method, named in names.items()
        for note in precision_notes(
            named.name,
            [(r.settings, r.results.get("device") or "") for r in runs if r.method == method],
        )
    ]


def _shots(shots: int) -> str:
    if shots < 1:
        return "all normal images"
    return f"{shots} normal image{'s' if shots > 1 else ''}"


def _check_alike(runs: Sequence[AnomalyResult]) -> None:
    """Refuse runs of one row that differ in more than seed and category.

    Raises:
        UsageError: names the setting and both folders.
    """
    first, *others = runs
    for run in others:
        differing = differing_runs(first.depends_on, run.depends_on, _OF_A_RUN)
        epochs, theirs = first.results.get("epochs"), run.results.get("epochs")
        if None not in (epochs, theirs) and epochs != theirs:
            differing.append(("the number of epochs", epochs, theirs))
        for name, one, other in differing[:1]:
            raise UsageError(
                f"{first.folder} and {run.folder} would share a row, but differ in {name} "
                f"({one!r:.40}, {other!r:.40}); name only the folder of one"
            )


def _check_same_test(runs: Sequence[AnomalyResult]) -> None:
    """Refuse seeds of one category that were tested on other images.

    Raises:
        UsageError: names both folders.
    """
    first, *others = runs
    for run in others:
        what, ours, theirs = unlike_data(first.data, run.data)
        if what:
            raise not_seeds_of_one_row(first.folder, run.folder, what, ours, theirs)
