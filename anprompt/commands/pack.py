"""Pack finished runs into one small file: what tables read, without checkpoints and predictions.

    python -m anprompt pack output runs.tar.xz
    mkdir output_theirs && tar xf runs.tar.xz -C output_theirs
    python -m anprompt table output_theirs output

Of each run results.json is kept, without the command, the machine's name and settings for where
things are. Once unpacked, tables print the same figures, beside those of your own runs.

exit status: 0 done, 2 bad input.
"""

import argparse
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

from anprompt.runs.identity import NEUTRAL
from anprompt.runs.recorded import RESULTS, read_results
from common.cli import CommandParser
from common.errors import UsageError
from common.files import atomic_write

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
    found = sorted(args.output.rglob(RESULTS))
    runs = {path: results for path in found if (results := read_results(path.parent))}
    if not runs:
        raise UsageError(f"{args.output}: no finished run there or below")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, results in runs.items():
            content = json.dumps(shared(results), indent=1, sort_keys=True).encode()
            entry = tarfile.TarInfo(path.relative_to(args.output).as_posix())  # without a date
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with atomic_write(args.archive, "wb") as file:
        file.write(lzma.compress(packed.getvalue(), preset=9))
    print(f"{args.archive}: {len(runs)} runs, {args.archive.stat().st_size:,} bytes")
    return 0


def shared(results: dict[str, Any]) -> dict[str, Any]:
    """Return results without what belongs to the machine."""
    kept = {key: value for key, value in results.items() if key not in OF_A_MACHINE}
    if isinstance(kept.get("config"), dict):
        kept["config"] = _without_places(kept["config"])
    return kept


def _without_places(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found[key] = _without_places(value, f"{name}.")
        elif name not in NEUTRAL or name in BETWEEN_RUNS:
            found[key] = value
    return found
