"""Effective robustness on the variants of ImageNet, beside the tables of domain generalisation."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from anprompt.results.aggregate import seeds_left_out
from anprompt.results.predictions import FILE_NAME, Answers, read_predictions
from anprompt.results.run import Run
from anprompt.results.table import IMAGENET_VARIANTS, Column, Row, Table
from anprompt.results.value import Value, over_seeds, seed_by_seed
from noise.metrics import OWN_CLASSES, effective_robustness

IMAGENET = "ImageNet"
NOTE = (
    "Accuracy above (+) or below what standard ImageNet models of the same ImageNet accuracy have "
    "(docs/ROBUSTNESS.md): for comparing adapted CLIPs with each other and with zero-shot CLIP."
)
OF_BOTH = "Over the seeds that the tests on ImageNet and on the variant both have"
OWN_NOTE = (
    "ImageNetA and ImageNetR compare with the accuracy on their own classes of ImageNet, which "
    "needs the kept predictions of the test there (TEST.SAVE_PREDICTIONS True)."
)


def effective_tables(tables: Sequence[Table]) -> list[Table]:
    """Return a table of effective robustness for each of domain generalisation from ImageNet."""
    found = []
    for table in tables:
        if (table.protocol, table.subject) == ("domaingen", IMAGENET):
            made = _of(table)
            found += [made] if any(any(row.values) for row in made.rows) else []
    return found


def _of(table: Table) -> Table:
    rows = []
    computed = []
    for row in table.rows:
        named = dict(zip([column.name for column in table.columns], row.values, strict=True))
        pairs = {name: (_clean(row, named, name), named.get(name)) for name in IMAGENET_VARIANTS}
        values = tuple(_value(*pair, shift) for shift, pair in pairs.items())
        rows.append(replace(row, values=values))
        computed += [(f"{row.name} ({shift})", pair) for shift, pair in pairs.items()]
    lacking = any(named is None for row in rows for named in row.values[2:])
    return replace(
        table,
        title=f"Domain generalisation: effective robustness, trained on {IMAGENET}",
        columns=[Column(name, signed=True) for name in IMAGENET_VARIANTS],
        rows=[row for row in rows if any(row.values)],
        averaged=[],
        measure="Effective robustness in percentage points",
        notes=[NOTE, *([OWN_NOTE] if lacking else []), *seeds_left_out(computed, OF_BOTH)],
        references=[],
        evidence=None,
    )


def _clean(row: Row, named: dict[str, Value | None], shift: str) -> Value | None:
    """Return the accuracy on ImageNet that a variant's is compared with."""
    if shift in OWN_CLASSES:
        return over_seeds(_on_own_classes(row.runs, shift))
    return named.get(f"{IMAGENET} (source)")


def _value(clean: Value | None, shifted: Value | None, shift: str) -> Value | None:
    if clean is None or shifted is None:
        return None

    def compute(known: Value, under: Value) -> Value | None:
        number = effective_robustness(shift, known.number, under.number)
        return None if math.isnan(number) else Value(number, ["er", known.source, under.source])

    return seed_by_seed(compute, clean, shifted, common=True)


def _on_own_classes(runs: Iterable[Run], shift: str) -> dict[int, Value | None]:
    """Return the accuracy on ImageNet's images of a variant's classes, by seed."""
    classes = {run.seed: run.classnames for run in runs if run.dataset == shift}
    found: dict[int, Value | None] = {}
    for run in runs:
        names = classes.get(run.seed)
        if run.dataset != IMAGENET or not names or not (run.folder / FILE_NAME).is_file():
            continue
        answers = next(iter(read_predictions(run.folder, run.results).values()), None)
        number = None if answers is None else accuracy_among(answers, names)
        if answers is not None and number is not None:
            source = f"{(run.folder / FILE_NAME).as_posix()}#{answers.rule}/classes of {shift}"
            found[run.seed] = Value(number, source)
    return found


def accuracy_among(answers: Answers, classnames: Iterable[str]) -> float | None:
    """Return the accuracy in percent on the images of some classes, answered among these alone.

    None where a class is unknown, or an image's kept answers hold none of them.
    """
    wanted = set(classnames)
    if not wanted <= set(answers.classnames):
        return None
    is_wanted = np.array([name in wanted for name in answers.classnames])
    images = is_wanted[answers.labels]
    labels = answers.labels[images]
    if not len(labels):
        return None
    if answers.log_probabilities is not None:
        among = np.where(is_wanted, answers.log_probabilities[images], -np.inf)
        return 100 * float((among.argmax(axis=1) == labels).mean())
    top = answers.top_classes[images]
    known = is_wanted[top]
    if not known.any(axis=1).all():
        return None
    first = top[np.arange(len(top)), known.argmax(axis=1)]
    return 100 * float((first == labels).mean())
