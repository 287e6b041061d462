"""Which runs are finished, without starting any."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anprompt.protocols.environment import Environment
from anprompt.protocols.methods import read_settings
from anprompt.protocols.plan import RunSpec
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg
from anprompt.runs.folder import finished_accuracy
from anprompt.runs.recorded import CONFIG, read_results
from common.errors import one_line
from common.paths import seen_from


def find_finished(
    runs: Sequence[RunSpec],
    environment: Environment,
    options: Sequence[str] = (),
    refused: dict[RunSpec, str] | None = None,
) -> dict[RunSpec, dict[str, Any]]:
    """Return the results of the runs that are finished, by train.py's own rule.

    A test is finished only where its training is, if that is among ``runs``. One with which
    something is wrong is not: starting it says what.

    Args:
        refused: gets those whose folder has another run than is asked for, as with other settings,
            and why.
    """
    planned = set(runs)
    configurations = Configurations(environment, options)
    known: dict = {}  # of the data, which many runs share
    found: dict[RunSpec, dict[str, Any]] = {}
    for run in runs:
        if run.needs in planned and run.needs not in found:
            continue
        try:
            folder = run.folder(environment.output)
            results = read_results(folder)
            if results is None and not Path(folder, CONFIG).is_file():
                continue
            accuracy = finished_accuracy(configurations.of(run), known)
            if results is not None and accuracy is not None:
                found[run] = results
        except (ValueError, OSError) as error:
            if refused is not None:
                refused[run] = one_line(error)
    return found


class Configurations:
    """The configurations of many runs: what is the same is built once.

    Args:
        environment: of the runs.
        options: KEY VALUE settings of all of them.
    """

    def __init__(self, environment: Environment, options: Sequence[str] = ()):
        self.environment, self.options = environment, options
        self._built: dict[tuple, Any] = {}
        self._overridden = set(options[::2])

    def of(self, run: RunSpec) -> Any:
        """Return a run's configuration, which is good until the next one is asked for.

        Raises:
            UsageError: as `build_cfg`.
        """
        dataset = read_settings(run.dataset_file)
        # What runs of one kind differ in; options and the trainer's file come after these.
        names = {"SEED", "DATASET.NAME"}
        is_plain = set(dataset) == {"DATASET.NAME"} and not names & (
            self._overridden | set(read_settings(run.config_file))
        )
        kind = (run.config_file, run.method, run.backbone, run.stage, run.protocol, run.subset)
        key = (*kind, run.shots) if is_plain else (*kind, run.shots, run)
        if key not in self._built:
            self._built[key] = self._build(run)
            return self._built[key]
        cfg = self._built[key]
        cfg.defrost()
        cfg.SEED = run.seed
        cfg.DATASET.NAME = dataset["DATASET.NAME"][0]
        cfg.OUTPUT_DIR = run.folder(self.environment.output)
        training = run.needs
        if training is not None:
            folder = training.folder(self.environment.output)
            cfg.RUN.MODEL_DIR = seen_from(folder, cfg.OUTPUT_DIR)
        cfg.freeze()
        return cfg

    def _build(self, run: RunSpec) -> Any:
        argv = self.environment.argv(run, self.options)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                args = make_parser().parse_args(argv)
        except SystemExit:
            raise ValueError(f"{run}: train.py does not understand its arguments") from None
        return build_cfg(args)
