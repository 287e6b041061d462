"""Pack finished runs into one small file: what tables read, without checkpoints and predictions.

    python -m anprompt pack output runs.tar.xz
    mkdir output_theirs && tar xf runs.tar.xz -C output_theirs
    python -m anprompt table output_theirs output

Of each run results.json and robustness.json are kept, without the command, the machine's name and
settings for where things are; of other paths their last name. Once unpacked, tables print the same
figures, beside those of your own runs; so of a folder inside output, names begin with the folders
above that tables read, such as a protocol's. Runs of upstream's code, which are logs alone, are not
packed.

exit status: 0 done, 2 bad input.
"""

import argparse
import io
import json
import lzma
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anprompt.protocols.layout import read_path
from anprompt.results.noise.files import FILE_NAME as ROBUSTNESS
from anprompt.results.noise.files import read_evaluations
from anprompt.runs.identity import NEUTRAL
from anprompt.runs.recorded import RESULTS, read_results
from common.cli import CommandParser
from common.errors import UsageError
from common.files import atomic_write
from common.reading import read_json
from common.walk import folders_with

OF_A_MACHINE = ("command", "host", "predictions")
BETWEEN_RUNS = {"RUN.EVAL_ONLY", "RUN.MODEL_DIR"}  # which training a test reads, relative to it


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
    found = folders_with(args.output, [RESULTS])
    runs = {folder: results for folder in found if (results := read_results(folder))}
    if not runs:
        raise UsageError(f"{args.output}: no finished run there or below")
    files = {folder / RESULTS: shared(results) for folder, results in runs.items()}
    for folder in runs:
        if read_evaluations(folder):  # which checks them
            files[folder / ROBUSTNESS] = _without_files(read_json(folder / ROBUSTNESS))
    top = _top(args.output, runs)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, held in sorted(files.items()):
            content = json.dumps(held, indent=1).encode()
            name = Path(os.path.abspath(path)).relative_to(top).as_posix()
            entry = tarfile.TarInfo(name)  # without a date
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with atomic_write(args.archive, "wb") as file:
        file.write(lzma.compress(packed.getvalue(), preset=9))
    print(f"{args.archive}: {len(runs)} runs, {args.archive.stat().st_size:,} bytes")
    return 0


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
        elif name in BETWEEN_RUNS:
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
