"""What is to be said about rows: in what their runs are not alike."""

from collections import Counter
from collections.abc import Iterable, Mapping

from anprompt.results.cell import Cell, Cells, is_shots, places
from anprompt.results.comparable import (
    OF_TRAININGS,
    TEST_DATA,
    differing_runs,
    precision_notes,
    resumed_note,
)
from anprompt.results.method import Method
from anprompt.results.run import Run
from common.provenance import commit_text

# What a method's results depend on; data sets and protocols bring settings of their own.
_OF_A_METHOD = ("TRAINER.", "OPTIM.", "MODEL.", "INPUT.", "DATALOADER.TRAIN_X.")
_MOST_VERSIONS = 4  # that a note lists


def notes_on_rows(named: Mapping[Method, Method], rows: Mapping[Method, Cells]) -> list[str]:
    """Return notes on the runs of rows.

    Args:
        named: methods with the names that rows have.
        rows: runs by seed, by cell, by method.
    """
    by_name = {named[method]: cells for method, cells in rows.items()}
    return (
        _shortages(rows)
        + _resumed(by_name)
        + _same_images(rows)
        + _unlike_settings(rows)
        + _unlike_precisions(by_name)
        + _unlike_tests(by_name)
        + _unlike_code(by_name)
    )


def _unlike_settings(rows: Mapping[Method, Cells]) -> list[str]:
    """Return notes on rows whose columns were trained with other settings under one name, or are of
    models that were trained for other numbers of epochs."""
    notes = []
    for method, cells in rows.items():
        runs = [(cell, next(iter(seeds.values()))) for cell, seeds in cells.items()]
        (first_cell, first), *others = [(cell, run) for cell, run in runs if run.settings] or runs
        told: dict[str, dict[str, list[Cell]]] = {}
        for cell, run in others:
            if run.config != first.config:
                continue
            for key, ours, theirs in _differences(first, run):
                values = told.setdefault(key, {str(ours): [first_cell]})
                values.setdefault(str(theirs), []).append(cell)
        for key, values in told.items():
            parts = [f"{value} ({places(where)})" for value, where in values.items()]
            notes.append(f"{method.trainer}: {key} is not the same everywhere: {', '.join(parts)}.")
    return notes


def _differences(first: Run, run: Run) -> list[tuple[str, object, object]]:
    """Return in what two columns of a row differ that bears on the method itself."""
    found = [
        (key.removeprefix(OF_TRAININGS), ours, theirs)
        for key, ours, theirs in differing_runs(first.depends_on, run.depends_on, ())
    ]
    told = [difference for difference in found if difference[0].startswith(_OF_A_METHOD)]
    # Shots and data sets have epochs of their own, unless they are tests of one training.
    if (first.trained_on, first.shots) != (run.trained_on, run.shots):
        return told
    if None in (first.epochs, run.epochs):
        return told + [difference for difference in found if difference[0] == "RUN.LOAD_EPOCH"]
    if first.epochs != run.epochs and not any(key == "OPTIM.MAX_EPOCH" for key, *_ in told):
        told.append(("the number of epochs", first.epochs, run.epochs))
    return told


def _runs(cells: Cells) -> Iterable[Run]:
    return (run for seeds in cells.values() for run in seeds.values())


def _unlike_precisions(rows: Mapping[Method, Cells]) -> list[str]:
    """Return notes on rows with devices on which a setting of precision means different things."""
    return [
        note
        for method, cells in rows.items()
        for note in precision_notes(
            method.name,
            ((run.settings, run.results.get("device") or "") for run in _runs(cells)),
        )
    ]


def _shortages(rows: Mapping[Method, Cells]) -> list[str]:
    """Return notes on data sets that have fewer images than their trainings asked for."""
    return list(
        dict.fromkeys(
            f"{run.dataset}: the smallest class was trained with {run.shortage}."
            for cells in rows.values()
            for run in _runs(cells)
            if run.shortage
        )
    )


def _resumed(rows: Mapping[Method, Cells]) -> list[str]:
    """Return notes on trainings that went on from another run's, and what was new in them."""
    found = {
        resumed_note(
            f"{method.name} trained on {run.trained_on[0] or run.dataset}, seed {run.seed}",
            run.resumed,
        )
        for method, cells in rows.items()
        for run in _runs(cells)
        if run.resumed
    }
    return sorted(found)


def _same_images(rows: Mapping[Method, Cells]) -> list[str]:
    """Return notes on data sets whose images are all trained on, whatever the seed."""
    found = {
        dataset: f"{dataset}: all seeds train on the same images; deviations and intervals say "
        "nothing about another choice of images."
        for cells in rows.values()
        for (dataset, _), seeds in cells.items()
        if len(seeds) > 1
        and all(run.learns and run.results.get("takes_all") for run in seeds.values())
    }
    return list(found.values())


def _unlike_tests(rows: Mapping[Method, Cells]) -> list[str]:
    """Return notes on rows that were not tested on the same images, or with other weights of the
    backbone that they name."""
    tests: dict[Cell, dict[tuple, list[str]]] = {}
    weights: dict[str, dict[str, list[str]]] = {}

    def add(names: list[str], name: str) -> None:
        if name not in names:
            names.append(name)

    for method, cells in rows.items():
        for (dataset, column), seeds in cells.items():
            run = next(iter(seeds.values()))
            place = (dataset, "" if is_shots(column) else column)
            if run.num_test is not None:
                test = (
                    len(run.classnames),
                    run.num_test,
                    *(run.data.get(key) for key in TEST_DATA),
                )
                sizes = tests.setdefault(place, {})
                like = next((other for other in sizes if _may_be_one(test, other)), test)
                add(sizes.setdefault(like, []), method.name)
            if run.weights:
                of_backbone = weights.setdefault(run.backbone, {})
                add(of_backbone.setdefault(run.weights, []), method.name)
    notes = []
    for place, sizes in tests.items():
        counts = [n for _, n, *_ in sizes]
        listed = []
        for (_, n, *digests), names in sizes.items():
            told = "/".join(digest[:8] for digest in digests if digest)
            same = f" ({told})" if counts.count(n) > 1 else ""
            listed.append(f"{', '.join(names)}: {n} images{same}")
        if len(sizes) > 1:
            where = " ".join(filter(None, place))
            notes.append(f"{where}: not all rows have the same test: {'; '.join(listed)}")
    for backbone, files in weights.items():
        listed = [f"{', '.join(names)}: {digest[:8]}" for digest, names in files.items()]
        if len(files) > 1:
            notes.append(f"{backbone}: not all rows have the same weights: {'; '.join(listed)}")
    return notes


def _unlike_code(rows: Mapping[Method, Cells]) -> list[str]:
    """Return notes on runs that were not all made by one commit of this code, or one PyTorch."""
    runs = {run.file: run for cells in rows.values() for run in _runs(cells)}.values()
    commits, torches = Counter[str](), Counter[str]()
    for run in runs:
        if commit := commit_text(run.results.get("code") or {}):
            commits[commit] += 1
        if torch := (run.results.get("versions") or {}).get("torch"):
            torches[torch] += 1
    notes = []
    for what, found in (("commit of this code", commits), ("PyTorch", torches)):
        if len(found) < 2:
            continue
        listed = found.most_common(_MOST_VERSIONS)
        if rest := found.total() - sum(number for _, number in listed):
            listed.append(("others", rest))
        told = [f"{name} ({number} run{'s' * (number > 1)})" for name, number in listed]
        notes.append(f"Not all runs are of one {what}: {', '.join(told)}.")
    return notes


def _may_be_one(test: tuple, other: tuple) -> bool:
    """Return whether two tests do not differ in anything that both recorded."""
    return all(a == b for a, b in zip(test, other, strict=True) if a and b)
