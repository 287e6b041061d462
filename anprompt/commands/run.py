"""Run one method's part of a protocol: what scripts/METHOD/*.sh do.

    python -m anprompt run base2new  METHOD train|test DATASET [SEED] [-- KEY VALUE ...]
    python -m anprompt run crossdata METHOD train [SOURCE] [SEED]     [-- KEY VALUE ...]
    python -m anprompt run crossdata METHOD test TARGET [SEED]        [-- KEY VALUE ...]
    python -m anprompt run fewshot   METHOD DATASET [SHOTS [SEED]]    [-- KEY VALUE ...]
    python -m anprompt run anomaly   METHOD train|test DATASET CATEGORY [SHOTS [SEED]]
                                                                      [-- KEY VALUE ...]

METHOD is a trainer (CoOp) or what the scripts call it (coop), DATASET a file of configs/datasets
(without .yaml) or the path of one. SEED and SHOTS may be lists, 1,2,3, and so may CATEGORY: a,b;
all stands for every category, - for a folder of your own that is itself one category. Runs follow
each other, each a call of train.py; one that fails ends the command with its exit status. Finished
runs are skipped, interrupted ones resumed.

The environment: DATA, OUTPUT, BACKBONE, CFG, PLUGIN, SHOTS, SOURCE, LOADEP, DRY_RUN (scripts/*.sh
--help says what each means).
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from anprompt.protocols.anomaly import NO_CATEGORY, AnomalyRun, categories_of
from anprompt.protocols.environment import Environment, numbers
from anprompt.protocols.methods import ANOMALY, Method, method_of, plugin_method, read_settings
from anprompt.protocols.plan import PROTOCOLS, RunSpec, check_datasets, dataset_file, run_spec
from anprompt.sweeps.checks import refuse_settings
from common.errors import UsageError
from common.paths import ROOT

_NUMBERS = re.compile(r"\d+(,\d+)*")


def main(argv: list[str]) -> int:
    """Run ``anprompt run``; returns the exit status."""
    end = argv.index("--") if "--" in argv else len(argv)
    if {"-h", "--help"} & set(argv[:end]) or not argv:
        print(__doc__.strip(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    environment = Environment.read()
    runs, options = runs_for(argv, environment)
    print(environment.about_backbone(runs[0].backbone), file=sys.stderr)
    if runs[0].protocol == "fewshot":
        shots, seeds = (
            ",".join(dict.fromkeys(str(getattr(run, name)) for run in runs))
            for name in ("shots", "seed")
        )
        about = f"Few-shot on {runs[0].dataset}: {shots} images per class, seed {seeds}"
        print(about, file=sys.stderr, flush=True)
    if environment.is_dry_run:
        refuse_settings(runs, environment, options)
    for run in runs:
        command = environment.command(run, options)
        if environment.is_dry_run:
            print(shlex.join(command), flush=True)
            continue
        _check_trained(run, environment.output)
        status = _call(command)
        if status:
            return status
    return 0


def runs_for(argv: Sequence[str], environment: Environment) -> tuple[list[RunSpec], list[str]]:
    """Return the runs that the command line asks for, and the settings behind it.

    Raises:
        UsageError: a word is missing, or names nothing there is.
    """
    protocol, words = argv[0], list(argv[1:])
    if protocol not in ("base2new", "crossdata", "fewshot", ANOMALY):
        raise UsageError(
            f"{protocol!r}: expected base2new, crossdata, fewshot or anomaly (--help says more)"
        )
    if not words:
        raise UsageError("needs METHOD (--help says more)")
    if protocol == ANOMALY:
        return _anomaly_runs(words, environment)
    method = plugin_method(words.pop(0), environment.plugins)
    stage = _stage(words) if protocol != "fewshot" else "train"
    dataset, source = _datasets(protocol, stage, words, environment.source)
    usual = "1,2,4,8,16" if protocol == "fewshot" else "16"
    shots = environment.shots or usual
    if protocol == "fewshot" and words and _NUMBERS.fullmatch(words[0]):
        shots = words.pop(0)
    seeds = _seeds(words)
    if words[:1] == ["--"]:
        words.pop(0)
    check_datasets([dataset, source])
    environment.check_data([dataset])
    runs = [
        run_spec(protocol, stage, method, dataset, source, seed, shot, config=environment.config)
        for shot in numbers("SHOTS", shots, least=1)
        for seed in seeds
    ]
    return environment.with_backbone(runs), words


def _anomaly_runs(words: list[str], environment: Environment) -> tuple[list[RunSpec], list[str]]:
    method = plugin_method(words.pop(0), environment.plugins, ANOMALY)
    stage = _stage(words)
    if len(words) < 2 or "--" in words[:2]:
        raise UsageError("needs DATASET and CATEGORY (--help says more)")
    dataset, named = words.pop(0), words.pop(0)
    shots = environment.shots or "1,2,4,8"
    if words and _NUMBERS.fullmatch(words[0]):
        shots = words.pop(0)
    seeds = _seeds(words, "1,2,3,4,5")
    if words[:1] == ["--"]:
        words.pop(0)
    check_datasets([dataset])
    environment.check_data([dataset])
    settings = read_settings(dataset_file(dataset))
    options = dict(zip(words[::2], words[1::2], strict=False))
    image_dir = options.get("DATASET.IMAGE_DIR") or settings.get("DATASET.IMAGE_DIR", ("",))[0]
    place = _own_place(str(image_dir), environment.data) if image_dir else Path(dataset).stem
    categories = list(filter(None, named.split(",")))
    if named == "all":
        registered = str(settings["DATASET.NAME"][0])
        categories = categories_of(registered, environment.data, str(image_dir))
    runs: list[RunSpec] = [
        AnomalyRun(
            protocol=ANOMALY,
            stage=stage,
            method=method.trainer,
            config=environment.config or method.config("fewshot", dataset, shot),
            backbone="",
            dataset=dataset,
            source=dataset,
            subset="all",
            shots=shot,
            seed=seed,
            category="" if category == NO_CATEGORY else category,
            place=place,
        )
        for category in categories
        for shot in numbers("SHOTS", shots, least=1)
        for seed in seeds
    ]
    return environment.with_backbone(runs), words


def _own_place(image_dir: str, root: str) -> str:
    """Return what folders of results on images of one's own are called after.

    Raises:
        UsageError: the images' folder has no name.
    """
    folder = os.path.join(os.path.expanduser(root), os.path.expanduser(image_dir))
    name = Path(os.path.abspath(folder)).stem
    if not name:
        raise UsageError(
            f"DATASET.IMAGE_DIR {image_dir}: results are called after this folder, and it has no "
            "name; put the images into one"
        )
    return name


def _stage(words: list[str]) -> str:
    stage = words.pop(0) if words else ""
    if stage not in ("train", "test"):
        raise UsageError(f"{stage!r}: expected train or test (--help says more)")
    return stage


def _datasets(protocol: str, stage: str, words: list[str], source: str) -> tuple[str, str]:
    """Take the data sets tested on and trained on from the beginning of ``words``."""
    is_named = bool(words) and words[0] != "--"
    if protocol == "crossdata" and stage == "train":
        if is_named and not _NUMBERS.fullmatch(words[0]):
            source = words.pop(0)
        return source, source
    if not is_named:
        raise UsageError("needs DATASET (--help says more)")
    dataset = words.pop(0)
    if protocol != "crossdata":
        return dataset, dataset
    if dataset == source:
        raise UsageError(
            f"{dataset} is the source; it is tested when training ends, by xd_train.sh "
            "(SOURCE names another source)"
        )
    return dataset, source


def _seeds(words: list[str], usual: str = "1,2,3") -> list[int]:
    if words and _NUMBERS.fullmatch(words[0]):
        return numbers("SEED", words.pop(0), least=0)
    if words and words[0] != "--" and re.match(r"[^A-Za-z]", words[0]):
        raise UsageError(f"{words[0]!r}: expected SEED, as 1 or 1,2,3, or settings KEY VALUE")
    return numbers("SEED", usual, least=0)


def _check_trained(run: RunSpec, output: str) -> None:
    training = run.needs
    if training is not None and not os.path.isdir(training.folder(output)):
        raise UsageError(
            f"nothing was trained in {training.folder(output)}; "
            f"run {train_script(training, method_of(run.method))} first"
        )


def train_script(run: RunSpec, method: Method) -> str:
    """Return how a shell calls the script of a training."""
    if isinstance(run, AnomalyRun):
        category = run.category or NO_CATEGORY
        called = f"{method.name} train {run.dataset} {category} {run.shots} {run.seed}"
        return f"scripts/anomaly.sh {called}"
    name = {"base2new": "base2new", "crossdata": "xd"}[run.protocol]
    script = f"scripts/{method.name}/{name}_train.sh"
    if not (ROOT / script).is_file():
        script = f"scripts/{PROTOCOLS[run.protocol].layout}.sh {method.name} train"
    return f"{script} {run.dataset} {run.seed}"


def _call(command: list[str]) -> int:
    """Run a command and return its exit status; what tells this process to end tells it as well."""
    process: subprocess.Popen | None = None
    early: list[int] = []  # came before there was a process to tell

    def pass_on(number: int, frame: object) -> None:
        if process is None:
            early.append(number)
        elif number != signal.SIGINT:  # a terminal's Ctrl-C has reached the run, which says so
            process.send_signal(number)

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    caught = [getattr(signal, name) for name in names if hasattr(signal, name)]
    caught = [number for number in caught if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in caught}
    try:
        process = subprocess.Popen(command)
        for number in early:
            process.send_signal(number)
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
