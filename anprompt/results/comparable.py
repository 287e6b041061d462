"""What makes two results comparable: the same settings, on the same data."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from anprompt.runs.declared import declared
from anprompt.runs.identity import DATA_WORDS, NEUTRAL
from anprompt.runs.recorded import of_no_effect
from common.errors import UsageError
from common.settings import describe
from common.text import plain

Settings = Mapping[str, Any]

# Beside what NEUTRAL has: settings that the seeds of one row must differ in.
OF_A_SEED = {"SEED", "RUN.MODEL_DIR", "TRAINER.PROMPTKD.TEACHER_PROMPTS"}
# And those that the halves of one run differ in.
OF_A_HALF = {"DATASET.SUBSAMPLE_CLASSES", "RUN.EVAL_ONLY", "RUN.LOAD_EPOCH"}

# What only trainings depend on, beside settings of that scope. (Tests that would normalise images
# in another way than their training are refused.)
_OF_A_TRAINING = ("DATASET.NUM_SHOTS", "INPUT.TRANSFORMS")
_OF_A_TEST = ("TEST.", "DATALOADER.TEST.", "MODEL.CLASSES_AT_ONCE")

# Of methods that are fp32 where fp16 is set, on a GPU as well.
NODES_WITHOUT_FP16 = ("VPT", "TaskRes", "ADAPTER")

OF_TRAININGS = "their trainings' "  # before the name of a setting of the trainings behind tests

# What a run records digests of: what seeds share, and what the halves of one run share as well.
TEST_DATA = ("test", "test_files")
TRAINING_DATA = ("train", "few_shot", "train_files")


def differing_settings(
    first: Settings, other: Settings, expected: Collection[str]
) -> list[tuple[str, object, object]]:
    """Return settings that differ where both runs know them, but ``expected`` ones, and values.

    What belongs to training is left out where neither run trained anything.
    """
    ignored = of_no_effect(first, other)
    return [
        (key, value, other[key])
        for key, value in first.items()
        if key not in NEUTRAL
        and key not in expected
        and key in other
        and value != other[key]
        and not key.startswith(ignored)
    ]


def differing_runs(
    first: tuple[Settings, Settings], other: tuple[Settings, Settings], expected: Collection[str]
) -> list[tuple[str, object, object]]:
    """Do as `differing_settings` with what two runs depend on.

    A test depends on its own settings but for those that matter to trainings alone, and on those of
    the training behind it.

    Args:
        first, other: a run's settings and those of the training behind it, which are its own where
            it trained itself and {} where they are not known. Without them a test's own are
            compared, whatever they matter to.
    """
    found = differing_settings(first[0], other[0], expected)
    if first[1] and other[1] and any(own.get("RUN.MODEL_DIR") for own, _ in (first, other)):
        trainer = str(first[0].get("TRAINER.NAME", ""))
        found = [difference for difference in found if not _is_of_training(trainer, difference[0])]
    known = {key for key, *_ in found}
    return found + [
        (f"{OF_TRAININGS}{key}", ours, theirs)
        for key, ours, theirs in differing_settings(first[1], other[1], expected)
        if key not in known and (key == "TEST.FINAL_MODEL" or not key.startswith(_OF_A_TEST))
    ]


def _is_of_training(trainer: str, key: str) -> bool:
    """Return whether a setting has no effect on a test of what was trained with others."""
    if key in _OF_A_TRAINING:
        return True
    own = declared().get(trainer) or {} if key.startswith("TRAINER.") else {}
    setting = own.get(key) or own.get(key.rpartition(".")[0]) or describe(key)
    return setting is not None and setting.scope in ("training", "unused")


def data_of(results: Mapping[str, Any]) -> dict[str, str]:
    """Return digests of a run's data, of results that recorded them (`datasets.identity`)."""
    return (results.get("identity") or {}).get("data") or {}


def resumed_of(results: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in what a training differs from another run's that it went on from."""
    return tuple(map(plain, (results.get("identity") or {}).get("resumed") or ()))


def resumed_note(whose: str, resumed: Iterable[str]) -> str:
    """Return the note of tables on a training that went on from another run's."""
    return f"{whose}: its training went on from another run's; {'; '.join(resumed)}."


def precision_notes(whose: str, runs: Iterable[tuple[Settings, str]]) -> list[str]:
    """Return a note where runs of one row were computed in unlike precisions under one setting.

    Args:
        runs: settings and device of each; "" where that is not known.
    """
    devices: dict[tuple[str, str], Counter[str]] = {}
    for settings, device in runs:
        for key, value in settings.items():
            node = key.removeprefix("TRAINER.").removesuffix(".PREC")
            is_of_gpu = value == "amp" or (value == "fp16" and node not in NODES_WITHOUT_FP16)
            if key.endswith(".PREC") and is_of_gpu and device:
                devices.setdefault((key, value), Counter())[plain(device)] += 1
    notes = []
    for (key, value), counts in devices.items():
        if "cpu" in counts and len(counts) > 1:
            listed = " and ".join(f"{n} on {device}" for device, n in sorted(counts.items()))
            notes.append(f"{whose}: {key} {value} means fp32 on a CPU; runs are {listed}.")
    return notes


def unlike_data(
    first: Mapping[str, str], other: Mapping[str, str], keys: Iterable[str] = TEST_DATA
) -> tuple[str, object, object]:
    """Return which data two runs do not share, of what both recorded, and its two digests."""
    for key in keys:
        ours, theirs = first.get(key), other.get(key)
        if ours and theirs and ours != theirs:
            return f"the digest of {DATA_WORDS[key]}", ours[:12], theirs[:12]
    return "", None, None


def not_seeds_of_one_row(
    first: Path, other: Path, what: str, ours: object, theirs: object
) -> UsageError:
    """Return the refusal of an average over two folders that differ in more than the seed."""
    return UsageError(
        f"{first} and {other} would be averaged as seeds of one row, but {what} is {ours} in the "
        f"first and {theirs} in the second; give the folder of one"
    )
