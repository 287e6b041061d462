"""What sweeps have given to a cluster: a folder each below OUTPUT/slurm, read by all later ones.

    OUTPUT/slurm/code-DIGEST/        a copy of the code, which the runs start from
    OUTPUT/slurm/BATCH/batch.json    what was submitted: the runs of each shard, the commit
    OUTPUT/slurm/BATCH/shard-N.json  what has become of the runs of a shard: their exit codes
    OUTPUT/slurm/BATCH/ARRAY/        submitit's files, and what the shards printed

Results are in the runs' own folders, as always. Nothing is learnt from submitit's pickles.
"""

import datetime
import os
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anprompt.protocols.environment import Environment
from anprompt.protocols.plan import RunSpec
from anprompt.sweeps import snapshot
from common.errors import UsageError
from common.files import write_json
from common.provenance import now
from common.reading import read_json
from common.schema import COUNT, Each, Number, mismatch

FOLDER = "slurm"
FILE = "batch.json"
STOPPED = {130, 137, 143}  # exit codes of what was ended by a signal, which below 0 say so too
KEY = "folder"
_RUN = {
    "protocol": str, "stage": str, "method": str, "config": str, "backbone": str, "dataset": str,
    "source": str, "subset": str, "shots": COUNT, "seed": COUNT, "is_usual": bool, KEY: str,
}  # fmt: skip
_BATCH = {
    "snapshot": str, "cwd": str, "options": [str], "files": Each(str), "per_gpu": COUNT,
    "array_size": Number(1, 10**7, whole=True), "shards": [[_RUN]],
    "environment": {"output": str, "data": str, "plugins": [str], "load_epoch": str},
}  # fmt: skip


def _moment() -> str:
    """Return the time in UTC, to the microsecond, so that names sort by it."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H%M%S.%f")


def key_of(run: RunSpec) -> str:
    """Return what a run is called here: its folder below OUTPUT."""
    return run.folder(".")


@dataclass
class Batch:
    """Shards that were submitted together.

    Attributes:
        folder: its own, absolute.
        content: what ``batch.json`` holds.
    """

    folder: Path
    content: Mapping[str, Any]

    @classmethod
    def create(
        cls,
        shards: Sequence[Sequence[RunSpec]],
        environment: Environment,
        options: Sequence[str],
        *,
        code: Mapping[str, Any],
        array_size: int,
        per_gpu: int,
        command: str,
    ) -> "Batch":
        """Copy the code and write down what is to be submitted.

        Args:
            code: as `snapshot.take`.
            array_size: shards of an array, at most.
            per_gpu: runs side by side on a GPU.
            command: what asked for it.

        Raises:
            OSError: it cannot be written.
        """
        parent = Path(environment.output).resolve() / FOLDER
        copy = snapshot.take(parent, code)
        folder = parent / f"anprompt-{_moment()}-{secrets.token_hex(2)}"
        given = asdict(environment)
        content = {
            "command": command,
            "date": now(),
            "host": platform.node(),
            "code": dict(code),
            "snapshot": str(copy),
            "cwd": os.getcwd(),
            "environment": {key: given[key] for key in ("output", "data", "plugins", "load_epoch")},
            "options": list(options),
            "files": snapshot.files_outside(
                (run for shard in shards for run in shard), environment
            ),
            "per_gpu": per_gpu,
            "array_size": array_size,
            "shards": [[{**asdict(run), KEY: key_of(run)} for run in shard] for shard in shards],
        }
        write_json(content, str(folder / FILE))
        return cls(folder, content)

    @classmethod
    def read(cls, folder: str | Path) -> "Batch":
        """Read what was written down.

        Raises:
            UsageError: it cannot be read or is something else.
        """
        file = Path(folder) / FILE
        content = read_json(file)
        if problem := mismatch(content, _BATCH):
            raise UsageError(
                f"{file}: not what a sweep writes ({problem}); if none of its jobs is in the "
                "queue, remove its folder"
            )
        return cls(Path(folder), content)

    def keys(self, shard: int) -> list[str]:
        """Return what the runs of a shard are called, as `key_of` does."""
        return [given[KEY] for given in self.content["shards"][shard]]

    def runs(self, shard: int) -> list[RunSpec]:
        """Return the runs of a shard."""
        given = self.content["shards"][shard]
        return [RunSpec(**{key: run[key] for key in _RUN if key != KEY}) for run in given]

    @property
    def environment(self) -> Environment:
        """Where data and results are."""
        given = self.content["environment"]
        return Environment(**{**given, "plugins": tuple(given["plugins"])})

    @property
    def n_shards(self) -> int:
        """How many there are."""
        return len(self.content["shards"])

    @property
    def name(self) -> str:
        """What its jobs are called, with the array's number behind."""
        return self.folder.name

    def arrays(self) -> Iterator[tuple[int, range]]:
        """Yield each array's number and the shards in it."""
        size, total = self.content["array_size"], self.n_shards
        for number, first in enumerate(range(0, total, size)):
            yield number, range(first, min(first + size, total))

    def task_of(self, shard: int) -> tuple[str, int]:
        """Return the job's name and the index in its array of a shard."""
        array, index = divmod(shard, self.content["array_size"])
        return f"{self.name}-{array}", index

    def complaints_of(self, shard: int) -> Path | None:
        """Return the file of what a shard, or SLURM, has complained about; None before it ran."""
        array, index = divmod(shard, self.content["array_size"])
        is_alone = len(dict(self.arrays())[array]) == 1  # then submitit makes a plain job of it
        pattern = "*_0_log.err" if is_alone else f"*_{index}_0_log.err"
        return next(iter(sorted((self.folder / str(array)).glob(pattern))), None)


def read_all(output: str | Path) -> list[Batch]:
    """Return all batches of a folder, the oldest first.

    Raises:
        UsageError: one cannot be read.
    """
    found = sorted((Path(output).resolve() / FOLDER).glob(f"anprompt-*/{FILE}"))
    return [Batch.read(file.parent) for file in found]


class State:
    """What has become of a shard's runs; written by the shard, read by everybody.

    Attributes:
        entries: by `key_of` a run's ``status`` (None while it runs), ``why`` and ``host``.
    """

    def __init__(self, batch: Batch, shard: int):
        self.file = batch.folder / f"shard-{shard}.json"
        self.entries: dict[str, dict[str, Any]] = {}
        try:
            content = read_json(self.file)
        except UsageError:  # not begun yet, or damaged: the runs' own folders say the rest
            return
        if not mismatch(content, Each({"status?": Number(whole=True), "why": str, "host": str})):
            self.entries = content

    def note(self, key: str, status: int | None, why: str = "") -> None:
        """Write down that a run has started (status None) or ended.

        Raises:
            OSError: the disk is full.
        """
        entry = {"status": status, "why": why, "host": platform.node(), "date": now()}
        self.entries[key] = entry
        write_json(self.entries, str(self.file))

    def of(self, key: str) -> str:
        """Return ``done``, ``failed``, ``stopped`` (by a signal), ``begun``, or "" before that."""
        entry = self.entries.get(key)
        if entry is None:
            return ""
        status = entry.get("status")
        if status is None:
            return "begun"
        if status < 0 or status in STOPPED:
            return "stopped"
        return "failed" if status else "done"
