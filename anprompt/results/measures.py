"""What a number of a run may be: accuracy, macro F1, calibration."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anprompt.results.predictions import FILE_NAME, read_predictions
from anprompt.results.run import HEADLINE, Run
from anprompt.results.statistics import calibration
from anprompt.results.value import Value


@dataclass(frozen=True)
class Measure:
    """A measure of a run.

    Attributes:
        title: what the numbers are.
        best: "highest" or "lowest".
        is_kept: computed from predictions.npz, by `statistics.calibration`; else in results.json.
    """

    title: str
    digits: int = 2
    best: str = "highest"
    is_kept: bool = False


MEASURES = {
    "accuracy": Measure("Accuracy in %"),
    "macro_f1": Measure("Macro F1 in %"),
    "ece": Measure("Expected calibration error in % (15 bins)", 2, "lowest", True),
    "adaptive_ece": Measure("Adaptive calibration error in %", 2, "lowest", True),
    "mce": Measure("Largest calibration error of a bin in %", 2, "lowest", True),
    "brier": Measure("Brier score, 0 to 2", 3, "lowest", True),
    "nll": Measure("Negative log-likelihood", 3, "lowest", True),
}
_IN_PERCENT = ("ece", "adaptive_ece", "mce")


def measured(run: Run, measure: str, rule: str = HEADLINE) -> Value | None:
    """Return a run's number under an inference rule; None where it is not known.

    Raises:
        UsageError: kept predictions are damaged.
    """
    if not MEASURES[measure].is_kept:
        return run.value(measure, rule)
    said = run.results.get("predictions")
    if not said or not (run.folder / FILE_NAME).is_file():
        return None
    by_rule = _calibrations(run.folder, said["sha256"], measure == "brier")
    name = next(iter(by_rule), "") if rule == HEADLINE else rule
    number = by_rule.get(name, {}).get(measure)
    if number is None:
        return None
    scale = 100 if measure in _IN_PERCENT else 1
    return Value(scale * number, f"{(run.folder / FILE_NAME).as_posix()}#{name}/{measure}")


@functools.cache
def _calibrations(
    folder: Path, sha256: str, whole: bool
) -> Mapping[str, Mapping[str, float | None]]:
    """Return calibration by rule; read once while a process makes tables."""
    kept = read_predictions(folder, {"predictions": {"sha256": sha256}}, whole)
    found = {}
    for rule, own in kept.items():
        whole_of = own.log_probabilities
        probabilities = None if whole_of is None else np.exp(whole_of.astype(np.float64))
        result = calibration(
            own.confidence, own.is_correct, own.true_probability, probabilities, own.labels
        )
        found[rule] = {name: getattr(result, name) for name in MEASURES if MEASURES[name].is_kept}
    return found
