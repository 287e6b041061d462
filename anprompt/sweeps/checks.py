"""What must be there before hundreds of runs start: each thing is looked at once."""

import contextlib
import io
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anprompt.protocols.environment import BUNDLED, Environment
from anprompt.protocols.methods import method_of, weights_at_hand
from anprompt.protocols.plan import DRAWN, RunSpec
from anprompt.runs.arguments import make_parser
from clip.weights import names
from common.errors import UsageError, one_line

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
    for backbone in dict.fromkeys(run.backbone for run in runs):
        found += _of(lambda backbone=backbone: _get_weights(backbone))
    if not found:  # settings name the backbone
        found += _of_settings(runs, environment, options)
    return list(dict.fromkeys(found))


def _of(check: Any) -> list[str]:
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
    """Check one run of each configuration and of each data set."""
    found: list[str] = []
    seen: set[tuple] = set()
    for run in runs:
        keys: set[tuple] = {("settings", run.config_file, run.stage)}
        if run.dataset not in DRAWN:
            keys.add(("data", run.dataset_file))
        new = keys - seen
        seen |= new
        if new:
            found += _of_run(environment.argv(run, options), any(k[0] == "data" for k in new))
    return found


def _of_run(argv: list[str], reads_data: bool) -> list[str]:
    """Check a run's settings and, if asked to, its data set."""
    from anprompt.runs.config import build_cfg

    args: Namespace = make_parser().parse_args(argv)
    cfgs: list[Any] = []
    found = _of(lambda: cfgs.append(build_cfg(args)))
    if cfgs and reads_data:
        found += _of(lambda: _read_data(cfgs[0]))
    return found


def _read_data(cfg: Any) -> None:
    from dassl.data.datasets import DATASET_REGISTRY
    from datasets.base import Reader

    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if isinstance(dataset, type) and issubclass(dataset, Reader):
        dataset.reader(cfg.DATASET.ROOT, **dataset.options_of(cfg)).read()  # type: ignore[attr-defined]
