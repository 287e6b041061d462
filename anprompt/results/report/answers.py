"""Answers to single images, from the predictions that runs kept: errors, disagreements, confusion,
reliability. Written as JSON that templates/answers.js shows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from anprompt.results.predictions import FILE_NAME, Answers, read_predictions
from anprompt.results.report.data import Data
from anprompt.results.report.pictures import MOST, TestImages
from anprompt.results.run import Run
from anprompt.results.statistics import calibration
from anprompt.results.table import PROTOCOLS
from common.text import plain

MOST_ERRORS = 8  # of each method, the most confident
MOST_DISAGREEMENTS = 16
MOST_CLASSES = 20  # in a confusion matrix; with more, the pairs confused most are listed
MOST_PAIRS = 20


@dataclass(frozen=True)
class _Test:
    """Methods' runs on one set of test images: of each method the one with the smallest seed."""

    title: str
    runs: dict[str, Run]


def tests(data: Data) -> list[dict[str, Any]]:
    """Return what is shown of every test that at least one run kept its predictions of."""
    found = list(_tests(data))
    images = TestImages(data.image_roots)
    share = max(MOST // max(len(found), 1), 4)
    shown = (
        _shown(data, test, images, share) for test in tqdm(found, "answers", delay=3, disable=None)
    )
    return [test for test in shown if test is not None]


def _tests(data: Data) -> Iterator[_Test]:
    for case in data.cases:
        for subset in ("base", "new") if case.protocol == "base2new" else ("all",):
            runs = {}
            for method in case.methods:
                own = [r for r in case.of(method.name, subset) if (r.folder / FILE_NAME).is_file()]
                if own:
                    runs[method.name] = own[0]
            if runs:
                title = f"{PROTOCOLS[case.protocol]}: {case.title}, {subset} classes"
                yield _Test(title, runs)


def _shown(data: Data, test: _Test, pictures: TestImages, share: int) -> dict[str, Any] | None:
    """Return a test's summary and its images worth a look, the first ``share`` with a picture."""
    read: dict[str, Answers] = {}
    for name, run in test.runs.items():
        own = next(iter(read_predictions(run.folder, run.results, whole=False).values()), None)
        first = next(iter(read.values()), own)
        if own is not None and first is not None and np.array_equal(own.paths, first.paths):
            read[name] = own
    if not read:
        return None
    names = list(read)
    numbers = {method.name: number for number, method in enumerate(data.methods)}
    first = read[names[0]]
    chosen = _worth_a_look(list(read.values()))
    return {
        "title": test.title,
        "seeds": [test.runs[name].seed for name in names],
        "files": [(test.runs[name].folder / FILE_NAME).as_posix() for name in names],
        "methods": [numbers[name] for name in names],
        "classes": [plain(name) for name in first.classnames],
        "count": len(first.paths),
        "images": [
            {
                "path": plain(first.paths[i]),
                "label": int(first.labels[i]),
                "picture": pictures.uri(str(first.paths[i])) if place < share else "",
                "answers": [
                    [int(own.top_classes[i, 0]), round(float(own.confidence[i]), 3)]
                    for own in read.values()
                ],
            }
            for place, i in enumerate(chosen)
        ],
        "summaries": [_summary(own) for own in read.values()],
    }


def _worth_a_look(answers: Sequence[Answers]) -> list[int]:
    """Return images: first those that methods disagree on most, then each one's worst errors."""
    correct = np.stack([own.is_correct for own in answers])  # (M, N)
    right = correct.sum(axis=0)
    split = np.minimum(right, len(answers) - right)
    disagreed = np.argsort(-split, kind="stable")[:MOST_DISAGREEMENTS]
    lists = [disagreed[split[disagreed] > 0].tolist()]
    for own in answers:
        wrong = np.flatnonzero(~own.is_correct)
        lists.append(
            wrong[np.argsort(-own.confidence[wrong], kind="stable")][:MOST_ERRORS].tolist()
        )
    longest = max(map(len, lists))
    return list(dict.fromkeys(own[k] for k in range(longest) for own in lists if k < len(own)))


def _summary(own: Answers) -> dict[str, Any]:
    """Return one method's accuracy, calibration, confusion and errors by confidence."""
    found = calibration(own.confidence, own.is_correct, own.true_probability)
    matrix = own.confusion_matrix()
    off = matrix - np.diag(np.diag(matrix))
    rows, columns = np.unravel_index(np.argsort(-off, axis=None, kind="stable"), off.shape)
    pairs = [
        [int(i), int(j), int(off[i, j])]
        for i, j in zip(rows[:MOST_PAIRS], columns[:MOST_PAIRS], strict=True)
        if off[i, j]
    ]
    return {
        "accuracy": round(own.accuracy, 2),
        "errors": int((~own.is_correct).sum()),
        "ece": round(100 * found.ece, 2),
        "nll": round(found.nll, 3),
        "bins": [[n, round(conf, 4), round(acc, 4)] for _, _, n, conf, acc in found.bins],
        "matrix": matrix.tolist() if len(matrix) <= MOST_CLASSES else None,
        "pairs": pairs,
    }


def settings(data: Data) -> list[dict[str, Any]]:
    """Return runs to compare the settings of: of each method and data set the first that trained.

    Only settings that are not the same in all of them.
    """
    runs = {}
    for case in data.cases:
        for method in case.methods:
            own = [run for run in case.of(method.name, "base") + case.of(method.name, "all")]
            if own and own[0].settings:
                runs[f"{method.name}, {PROTOCOLS[case.protocol]}, {case.title}"] = own[0]
    keys = {key for run in runs.values() for key in run.settings}
    differing = {k for k in keys if len({repr(run.settings.get(k)) for run in runs.values()}) > 1}
    return [
        {
            "name": plain(name),
            "file": plain(run.file),
            "settings": {
                plain(key): plain(value)
                for key, value in sorted(run.settings.items())
                if key in differing
            },
        }
        for name, run in runs.items()
    ]
