"""Damage or edit what a training left, evaluate it or go on with it, and see what comes of it.

Every attempt must end in one line with exit status 2, or in the very numbers of the undamaged run::

    python tests/faults/damage.py --attempts 300

Seeded. ``silent`` counts numbers that changed without a word, ``tracebacks`` what was neither.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

METHODS = {
    "CoOp": ("vit_b16_ep50_ctxv1", "prompt_learner"),
    "ANPrompt": ("vit_b16", "AntiNoisePromptLearner"),
}
OPTIONS = [
    *("OPTIM.MAX_EPOCH", "2", "DATALOADER.NUM_WORKERS", "0", "DATASET.NUM_SHOTS", "4"),
    *("DATALOADER.TRAIN_X.BATCH_SIZE", "8", "DATASET.SUBSAMPLE_CLASSES", "base"),
    *("TRAIN.CHECKPOINT_FREQ", "1"),
]
ODD = [None, True, -1, 0, 1, 7, 2**70, 10**5000, -0.5, 1e300, float("nan"), float("inf"), "", "x",
       [], [[]], {}, {"a": 1}, (1, 2), b"x"]  # fmt: skip


def argv(data: Path, clip: Path, method: str, output: Path, *more: str) -> list[str]:
    """Return train.py's arguments."""
    config = ROOT / f"configs/trainers/{method}/{METHODS[method][0]}.yaml"
    return [
        *("--root", str(data), "--seed", "1", "--trainer", method, "--backbone", str(clip)),
        *("--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml")),
        *("--config-file", str(config), "--output-dir", str(output), *more, *OPTIONS),
    ]


def call(arguments: list[str]) -> tuple[int | None, str, str]:
    """Run train.py in this process; the status is None where it ends in a traceback."""
    import train

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: int | None = train.main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            status = None
    return status, out.getvalue(), err.getvalue()


# Damage: each takes the random generator and a file


def truncate(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.choice([0, 1, 50, rng.randrange(len(content) + 1)])])


def flip(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 8, 64])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def overwrite(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    start, length = rng.randrange(len(content)), rng.choice([4, 64, 4096])
    content[start : start + length] = rng.choice([bytes(length), rng.randbytes(length)])
    path.write_bytes(content)


def replace(rng: random.Random, path: Path) -> None:
    path.write_bytes(
        rng.choice([b"<html>", b"PK\x03\x04", rng.randbytes(500), b"[]", b"\x80\x02."])
    )


def places(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of everything in nested data."""
    items: list = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(rng: random.Random, content: Any) -> Any:
    """Return nested data with one thing in it changed, renamed, removed or added."""
    import torch

    content = copy.deepcopy(content)
    *above, key = rng.choice(list(places(content)))
    place = content
    for step in above:
        place = place[step]
    value = place[key]
    how = rng.random()
    if isinstance(value, torch.Tensor) and how < 0.7:
        place[key] = rng.choice(
            [-value, value[:0], value.double(), value * float("nan"), value + 1, value.reshape(-1)]
            if value.dim() else [value + 1, value * float("nan"), value.reshape(1)]
        )  # fmt: skip
    elif isinstance(place, dict) and how < 0.2:
        del place[key]
    elif isinstance(place, dict) and how < 0.25:
        place[f"{key}x"] = place.pop(key)
    elif type(value) in (int, float) and how < 0.7:
        place[key] = rng.choice([value + 1, -value - 1, value * 10, type(value)(3)])
    else:
        place[key] = rng.choice(ODD)
    return content


def edit(rng: random.Random, path: Path) -> None:
    import torch

    torch.save(changed(rng, torch.load(path, weights_only=True)), path)


def edit_without_digest(rng: random.Random, path: Path) -> None:
    """An edited file of an earlier version: nothing in it can tell, so a line must."""
    import torch

    content = torch.load(path, weights_only=True)
    del content["digest"]
    torch.save(changed(rng, content), path)


def edit_text(rng: random.Random, path: Path) -> None:
    """Change a JSON or YAML file, as data or as text."""
    import yaml

    if rng.random() < 0.3:
        rng.choice([truncate, flip, overwrite, replace])(rng, path)
        return
    is_json = path.suffix == ".json"
    read, write = (json.loads, json.dumps) if is_json else (yaml.safe_load, yaml.safe_dump)
    for _ in range(20):  # not everything odd can be written
        with contextlib.suppress(TypeError, ValueError, yaml.YAMLError):
            path.write_text(write(changed(rng, read(path.read_text()))))
            return


def move(rng: random.Random, path: Path) -> None:
    """Put the other epoch's checkpoint in its place."""
    other = path.with_name(f"model.pth.tar-{3 - int(path.name[-1])}")
    shutil.copy(other, path)


class Attempts:
    """Trains each method once, then damages copies of its folder."""

    def __init__(self, work: Path, seed: int):
        import inputs
        import torch

        self.rng, self.work = random.Random(seed), work
        self.data, self.clip = work / "data", work / "tiny.pt"
        inputs.make_fake_eurosat(str(self.data))
        torch.save(inputs.random_clip_state_dict("tiny"), self.clip)
        self.expected: dict[tuple[str, str], Any] = {}
        for method in METHODS:
            folder = self.work / method
            assert call(argv(self.data, self.clip, method, folder))[0] == 0
            for how in ("evaluate", "resume", "again"):
                status, _, err = self.outcome(method, how, lambda folder: None)
                assert status == 0, err
                self.expected[method, how] = self.numbers

    def outcome(
        self, method: str, how: str, damage: Callable[[Path], None]
    ) -> tuple[int | None, str, str]:
        """Damage a copy of a run's folder and evaluate it, go on with it, or start it again."""
        copy_of, output = self.work / "copy", self.work / "output"
        for folder in (copy_of, output):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.work / method, copy_of)
        learner = copy_of / METHODS[method][1]
        if how == "resume":  # as if killed in the second epoch
            (learner / "checkpoint").write_text("model.pth.tar-1\n")
            (copy_of / "results.json").unlink()
        damage(copy_of)
        if how == "resume":
            (learner / "model.pth.tar-2").unlink()
        if how == "evaluate":
            flags = ("--eval-only", "--model-dir", str(copy_of))
            found = call(argv(self.data, self.clip, method, output, *flags))
        else:
            output = copy_of
            found = call(argv(self.data, self.clip, method, output))
        self.numbers = self.read(output, found[1]) if found[0] == 0 else None
        return found

    def read(self, folder: Path, out: str) -> Any:
        if "Finished already" in out:
            return out.split("accuracy")[1][:8]
        with contextlib.suppress(ValueError, OSError, KeyError):
            results = json.loads((folder / "results.json").read_text())
            return [results[key] for key in ("accuracy", "macro_f1", "per_class", "epochs")]
        return "no results"

    def attempt(self, number: int) -> tuple[str, str]:
        """Make one attempt; returns what came of it and a description."""
        rng, method = self.rng, list(METHODS)[number % len(METHODS)]
        how = rng.choice(["evaluate", "evaluate", "resume", "resume", "again"])
        learner = METHODS[method][1]
        tensors = f"{learner}/model.pth.tar-{1 if how == 'resume' else 2}"
        kinds: list[tuple[str, Callable]] = [
            (tensors, kind) for kind in (truncate, flip, flip, overwrite, replace, edit, edit, edit)
        ]
        kinds += [(tensors, edit_without_digest), (tensors, move)]
        kinds += [(f"{learner}/checkpoint", replace), (f"{learner}/checkpoint", truncate)]
        kinds += [("config.yaml", edit_text), ("identity.json", edit_text)]
        kinds += [("results.json", edit_text)] if how != "resume" else []
        if how == "again":
            kinds = kinds[-3:]
        file, kind = rng.choice(kinds)

        def damage(folder: Path) -> None:
            kind(rng, folder / file)

        status, out, err = self.outcome(method, how, damage)
        what = f"{method} {how} {file} {kind.__name__}"
        if status is None or "Traceback" in err:
            return "tracebacks", f"{what}: {err.splitlines()[-1][:300] if err else out[-300:]}"
        if status:
            lines = err.splitlines()
            good = status == 2 and len(lines) == 1 and lines[0].startswith("train.py: error: ")
            return ("refused" if good else "unclear"), f"{what}: {err[:300]}"
        if self.numbers == self.expected[method, how]:
            return "unchanged", what
        if "no digest" in out or "Finished already" not in out and "were not" in out:
            return "told", what
        return "silent", f"{what}: {self.numbers} instead of {self.expected[method, how]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attempts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import torch

    import common.torchvision_compat  # noqa: F401

    torch.set_num_threads(1)
    counts: Counter = Counter()
    with tempfile.TemporaryDirectory() as work:
        os.environ["ANPROMPT_CACHE"] = f"{work}/cache"
        attempts = Attempts(Path(work), args.seed)
        for number in range(args.attempts):
            outcome, description = attempts.attempt(number)
            counts[outcome] += 1
            if outcome in ("tracebacks", "unclear", "silent"):
                print(f"{outcome}: {number}: {description}", flush=True)
    print(json.dumps(counts))
    return 1 if counts["tracebacks"] + counts["unclear"] + counts["silent"] else 0


if __name__ == "__main__":
    sys.exit(main())
