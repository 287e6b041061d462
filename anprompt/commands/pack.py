"""Pack finished runs into one small file: what tables read, without checkpoints and predictions.

    python -m anprompt pack output runs.tar.xz
    mkdir output_theirs && tar xf runs.tar.xz -C output_theirs
    python -m anprompt table output_theirs output

Of each run results.json and robustness.json are kept, without the command, the machine's name and
settings for where things are; of other paths their last name. Of trainings that were not tested
themselves, but are named by tests or measured under noise, config.yaml is kept in the same way.
Once unpacked, tables print the same figures, beside those of your own runs; so of a folder inside
output, names begin with the folders above that tables read, such as a protocol's. Damaged files are
refused. Runs of upstream's code, which are logs alone, are not packed either.

exit status: 0 done, 2 bad input.
"""

import argparse
import io
import json
import lzma
import os
import tarfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from anprompt.protocols.layout import read_path
from anprompt.results.anomaly import find_anomaly_runs
from anprompt.results.noise.files import FILE_NAME as ROBUSTNESS
from anprompt.results.noise.files import read_evaluations
from anprompt.results.run import find_runs
from anprompt.runs.identity import NEUTRAL
from anprompt.runs.recorded import (
    CONFIG,
    RESULTS,
    read_results,
    recorded_config,
    training_of,
)
from common.cli import CommandParser
from common.errors import UsageError
from common.files import atomic_write
from common.reading import read_json, read_yaml
from common.walk import folders_with

OF_A_MACHINE = ("command", "host", "predictions")
# Which training a test reads, relative to it, and what tables call its data set.
READ_BY_TABLES = {"RUN.EVAL_ONLY", "RUN.MODEL_DIR", "DATASET.TITLE"}


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt pack",
        description=__doc__,
    )
    parser.add_argument("output", type=Path, help="the folder of the runs")
    parser.add_argument("archive", type=Path, help="the file to write, .tar.xz")
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt pack``; returns the exit status."""
    args = make_parser().parse_args(argv)
    find_runs([args.output])  # which refuse what tables refuse
    find_anomaly_runs([args.output])
    found = folders_with(args.output, [RESULTS])
    runs = {folder: results for folder in found if (results := read_results(folder))}
    if not runs:
        raise UsageError(f"{args.output}: no finished run there or below")
    files = {folder / RESULTS: json_text(shared(results)) for folder, results in runs.items()}
    measured = [f for f in folders_with(args.output, [ROBUSTNESS]) if read_evaluations(f)]  # checks
    for folder in measured:
        content = _without_files(read_json(folder / ROBUSTNESS))
        files[folder / ROBUSTNESS] = json_text(content)
    trainings, elsewhere = _untested([*runs, *measured], set(runs), args.output)
    for folder in trainings:
        config = _without_places(read_yaml(folder / CONFIG))
        files[folder / CONFIG] = yaml.safe_dump(config, sort_keys=False)
    top = _top(args.output, runs)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, text in sorted(files.items()):
            held = text.encode()
            name = Path(os.path.abspath(path)).relative_to(top).as_posix()
            entry = tarfile.TarInfo(name)  # without a date
            entry.size = len(held)
            archive.addfile(entry, io.BytesIO(held))
    with atomic_write(args.archive, "wb") as file:
        file.write(lzma.compress(packed.getvalue(), preset=9))
    print(f"{args.archive}: {len(runs)} runs, {args.archive.stat().st_size:,} bytes")
    if elsewhere:
        print(
            f"not packed: {len(elsewhere)} trainings that tests name and that are not below "
            f"{args.output}, {elsewhere[0]} first; without them tables know less of these tests"
        )
    return 0


def _untested(
    folders: Iterable[Path], tested: Collection[Path], output: Path
) -> tuple[list[Path], list[Path]]:
    """Return folders of trainings without a test of their own that these folders are or name, and
    of trainings that they name and that are not below ``output``."""
    found, elsewhere = set(), set()
    have_tests = set(map(os.path.abspath, tested))
    for folder in folders:
        training = training_of(folder, recorded_config(folder) or {})
        for own in filter(None, (folder, training)):
            if os.path.abspath(own) in have_tests:
                continue
            if Path(os.path.abspath(own)).is_relative_to(os.path.abspath(output)):
                found |= {own} if (own / CONFIG).is_file() else set()
            elif own.is_dir():
                elsewhere.add(own)
    return sorted(found), sorted(elsewhere)


def _top(output: Path, runs: Mapping[Path, Mapping[str, Any]]) -> Path:
    """Return the folder that names in the archive begin at: ``output``, or one above it where
    tables read more from the paths of runs than they say below it.
    """

    def read(path: Path, trainer: str) -> tuple[str, str, str]:
        facts = read_path(path, trainer)
        return facts.layout, facts.source, facts.config

    def is_enough(top: Path) -> bool:
        for folder, results in runs.items():
            whole = Path(os.path.abspath(folder))
            below = Path(whole.anchor, whole.relative_to(top))
            if read(below, results["trainer"]) != read(whole, results["trainer"]):
                return False
        return True

    output = Path(os.path.abspath(output))
    return next(top for top in (output, *output.parents) if is_enough(top))


def json_text(content: Any) -> str:
    """Return content as files in the archive have it."""
    return json.dumps(content, indent=1)


def shared(results: dict[str, Any]) -> dict[str, Any]:
    """Return results without what belongs to the machine."""
    kept = {key: value for key, value in results.items() if key not in OF_A_MACHINE}
    if isinstance(kept.get("config"), dict):
        kept["config"] = _without_places(kept["config"])
    return kept


def _without_places(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found[key] = _without_places(value, f"{name}.")
        elif name in READ_BY_TABLES:
            found[key] = value
        elif name not in NEUTRAL:
            is_path = isinstance(value, str) and Path(value).expanduser().is_absolute()
            found[key] = Path(value).name if is_path else value
    return found


def _without_files(content: dict[str, Any]) -> dict[str, Any]:
    """Return robustness.json without the report's pictures and the digest of a model that will not
    be there to compare with.
    """
    parts = {
        name: {key: value for key, value in part.items() if key != "examples"}
        for name, part in content["parts"].items()
    }
    kept = {key: value for key, value in content.items() if key != "fingerprint"}
    return {**kept, "parts": parts}
