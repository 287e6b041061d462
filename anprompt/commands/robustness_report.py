"""Evaluate all base-to-new models below OUTPUT under noise, by data set, and write the report.

    python -m anprompt robustness-report [DATASET ...] [-- OPTIONS OF anprompt robustness]

DATASET: folders of OUTPUT/base2new/train_base (default: all that are there). Figures go to each
run's robustness.json, the page to OUTPUT/report.html. The environment: OUTPUT, DATA, SHOTS,
DESCRIPTIONS (scripts/robustness.sh --help says what each means).
"""

import os
from pathlib import Path

from anprompt.commands import report, robustness
from anprompt.protocols.environment import Environment, numbers
from anprompt.protocols.layout import datasets as dataset_names
from common.cli import CommandParser
from common.errors import UsageError
from common.names import nearest
from common.paths import ROOT


def main(argv: list[str]) -> int:
    """Run ``anprompt robustness-report``; returns the exit status."""
    end = argv.index("--") if "--" in argv else len(argv)
    parser = CommandParser(
        prog="anprompt robustness-report",
        description=__doc__,
    )
    parser.add_argument("datasets", nargs="*", metavar="DATASET")
    names, options = parser.parse_args(argv[:end]).datasets, argv[end + 1 :]
    environment = Environment.read()
    (shots,) = numbers("SHOTS", environment.shots or "16", least=1)[:1]
    trained = Path(environment.output) / "base2new/train_base"
    if not trained.is_dir():
        raise UsageError(
            f"no folder {trained}; train first, e.g. bash scripts/anprompt/reproduce.sh base2new "
            "--datasets shapes, or name in OUTPUT where runs are"
        )
    there = sorted(path.name for path in trained.iterdir() if path.is_dir())
    runs = {name: trained / name / f"shots_{shots}" for name in names or there}
    for name, folder in runs.items():
        if name not in there:
            near = ", ".join(nearest(name, there) or there)
            raise UsageError(f"no runs of {name!r} in {trained}; there are: {near}")
        if not folder.is_dir():
            raise UsageError(f"no runs with {shots} shots in {trained / name}; set SHOTS")
    status = 0
    for name, folder in runs.items():
        arguments = ["--model-dir", str(folder)]
        arguments += ["--root", environment.data] if environment.data else []
        descriptions = _descriptions(name)
        arguments += ["--descriptions", str(descriptions)] if descriptions.is_file() else []
        status = robustness.main([*arguments, *options]) or status
    page = ["--output", f"{environment.output}/report.html"]
    return report.main([environment.output, *page]) or status


def _descriptions(dataset: str) -> Path:
    folder = os.environ.get("DESCRIPTIONS") or ROOT / "configs/descriptions"
    return Path(folder) / f"{dataset_names().get(dataset.lower(), dataset)}.json"
