"""Which runs may share a row, and stand for one model in it."""

from collections.abc import Collection

from anprompt.results.cell import Cells
from anprompt.results.comparable import (
    OF_A_HALF,
    OF_A_SEED,
    TEST_DATA,
    TRAINING_DATA,
    differing_runs,
    not_seeds_of_one_row,
    unlike_data,
)
from anprompt.results.run import Run
from common.errors import UsageError


def check_alike(runs: list[Run]) -> None:
    """Refuse runs that an average would mix up though they are not the same experiment.

    Settings that only one of them knows are left out, so newer versions' keys do no harm.
    """
    first = runs[0]
    for run in runs[1:]:
        what, ours, theirs = _difference(first, run)
        if what:
            raise not_seeds_of_one_row(first.folder, run.folder, what, ours, theirs)


def check_halves_alike(cells: Cells) -> None:
    """Refuse a base and a new half that come from unlike trainings, as if they were one."""
    for (dataset, column), seeds in cells.items():
        base = cells.get((dataset, "base"), {}) if column == "new" else {}
        for seed in base.keys() & seeds.keys():
            what, ours, theirs = _unlike_training(base[seed], seeds[seed], OF_A_SEED | OF_A_HALF)
            if not what:
                what, ours, theirs = _unlike_data_of_halves(base[seed], seeds[seed])
            if what:
                raise UsageError(
                    f"{base[seed].folder} and {seeds[seed].folder} would stand in one row, but "
                    f"{what} is {ours} for base and {theirs} for new classes; remove the one that "
                    "is out of date"
                )


def _unlike_data_of_halves(base: Run, new: Run) -> tuple[str, object, object]:
    """Return which data differ; not those of training where the test asked for other shots."""
    shots = {run.settings.get("DATASET.NUM_SHOTS") for run in (base, new)}
    of_training = TRAINING_DATA if len(shots) == 1 else ()
    return unlike_data(base.data, new.data, (*TEST_DATA, *of_training))


def _unlike_training(
    first: Run, other: Run, expected: Collection[str]
) -> tuple[str, object, object]:
    """Return the first setting that differs, but for ``expected`` ones, and its two values."""
    for key, ours, theirs in differing_runs(first.depends_on, other.depends_on, expected):
        return key, repr(ours), repr(theirs)
    if first.own_code and other.own_code and first.own_code != other.own_code:
        return "the plugin's code", first.own_code, other.own_code
    if None not in (first.epochs, other.epochs) and first.epochs != other.epochs:
        return "the number of epochs", first.epochs, other.epochs
    return "", None, None


def _difference(first: Run, other: Run) -> tuple[str, object, object]:
    is_known = None not in (first.epochs, other.epochs)
    what = _unlike_training(first, other, OF_A_SEED | ({"RUN.LOAD_EPOCH"} if is_known else set()))
    if what[0]:
        return what
    if first.classnames and other.classnames and first.classnames != other.classnames:
        pairs = zip(first.classnames, other.classnames, strict=False)
        for number, (ours, theirs) in enumerate(pairs):
            if ours != theirs:
                return f"class {number}", repr(ours), repr(theirs)
        return "the number of classes", len(first.classnames), len(other.classnames)
    if None not in (first.num_test, other.num_test) and first.num_test != other.num_test:
        return "the number of test images", first.num_test, other.num_test
    return unlike_data(first.data, other.data)
