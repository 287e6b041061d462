"""What must be there before hundreds of runs start: each thing is looked at once."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anprompt.protocols.environment import BUNDLED, Environment
from anprompt.protocols.methods import method_of, weights_at_hand
from anprompt.protocols.plan import DRAWN, RunSpec
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg
from clip.weights import names
from common.errors import UsageError, one_line
from dassl.data.datasets import DATASET_REGISTRY
from datasets.base import Reader

TRAINING_MB, EVALUATION_MB = 20, 1  # what a run leaves, roughly: checkpoint, logs, results


def problems(
    runs: Sequence[RunSpec], environment: Environment, options: Sequence[str] = ()
) -> list[str]:
    """Return what stands in the way of runs, a line each: settings, data, weights, disk.

    Weights that can be downloaded are, so that runs side by side do not all fetch them.
    """
    if not runs:
        return []
    found = list(_of_folder(runs, environment))
    (backbone,) = {run.backbone for run in runs}
    without = _of(partial(_get_weights, backbone))
    if without:  # the rest is looked at all the same
        runs = [replace(run, backbone=BUNDLED) for run in runs]
    return [*found, *without, *dict.fromkeys(_of_settings(runs, environment, options))]


def refuse_settings(
    runs: Sequence[RunSpec], environment: Environment, options: Sequence[str] = ()
) -> None:
    """Refuse settings and plugins that train.py would refuse; needs no data and no weights.

    Raises:
        UsageError: with what it says of the first.
    """
    runs = [replace(run, backbone=BUNDLED) for run in runs]
    for problem in _of_configurations(runs, environment, options):
        raise UsageError(problem)


def _of(check: Callable[[], object]) -> list[str]:
    """Call something and return what it refuses."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check()
    except (UsageError, OSError) as error:
        return [one_line(error)]
    return []


def _of_folder(runs: Sequence[RunSpec], environment: Environment) -> Iterator[str]:
    output = Path(environment.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
        free = shutil.disk_usage(output).free >> 20
    except OSError as error:
        yield f"OUTPUT={environment.output} cannot be written to ({error.strerror})"
        return
    need = sum(
        TRAINING_MB if run.stage == "train" and method_of(run.method).learns else EVALUATION_MB
        for run in runs
    )
    if free < need:
        yield (
            f"OUTPUT={environment.output}: {free:,} MB are free, {len(runs)} runs leave about "
            f"{need:,} MB"
        )


def _get_weights(backbone: str) -> None:
    if backbone == BUNDLED or weights_at_hand(backbone):
        return
    names.locate(backbone)


def _of_settings(
    runs: Sequence[RunSpec], environment: Environment, options: Sequence[str]
) -> list[str]:
    """Check the settings of one run of each configuration, and each data set."""
    pairs = zip(options[::2], options[1::2], strict=False)
    of_data = [word for pair in pairs if pair[0].startswith("DATASET.") for word in pair]
    datasets = {run.dataset: run for run in reversed(runs) if run.dataset not in DRAWN}
    found = list(_of_configurations(runs, environment, options))
    for run in reversed(datasets.values()):
        found += _of(partial(_read_data, environment.argv(run, of_data)))
    return found


def _of_configurations(
    runs: Sequence[RunSpec], environment: Environment, options: Sequence[str]
) -> Iterator[str]:
    configurations = {(run.config_file, run.stage): run for run in reversed(runs)}
    for run in reversed(configurations.values()):
        yield from _of(partial(_configuration, environment.argv(run, options)))


def _configuration(argv: list[str]) -> Any:
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            args = make_parser().parse_args(argv)
    except SystemExit:
        raise UsageError(said.getvalue().partition("error: ")[2] or "bad arguments") from None
    return build_cfg(args)


def _read_data(argv: list[str]) -> None:
    cfg = _configuration(argv)
    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if isinstance(dataset, type) and issubclass(dataset, Reader):
        dataset.reader(cfg.DATASET.ROOT, **dataset.options_of(cfg)).read()  # type: ignore[attr-defined]
