"""A few pictures and prompts under noise, with what a model says of them, for the report."""

from collections.abc import Sequence
from typing import Any

import torch

from anprompt.robustness.answers import Answers
from anprompt.robustness.evaluation import Task
from anprompt.robustness.images import TestImages, select
from anprompt.robustness.plan import Plan
from anprompt.robustness.store import Store
from anprompt.robustness.texts import Pools
from noise.cells import Cell, image_cell
from noise.text import ALL_TEXT_KINDS

PICTURES = 8
AT_EVERY_SEVERITY = 2  # of the pictures; the others are shown at one
PROMPTS = 3
SEVERITY = 3  # the one asked for that is nearest


def example_cells(plan: Plan) -> list[Cell]:
    """Return the image cells that pictures are shown of: one of each kind."""
    severity = min(plan.severities, key=lambda s: abs(s - SEVERITY))
    kinds = plan.kinds.get("image", ())
    return [image_cell("image", kind, severity, plan.seeds[0]) for kind in kinds]


def _every_cell(plan: Plan) -> list[Cell]:
    """Return the image cells of every kind at every severity that is asked for."""
    kinds = plan.kinds.get("image", ())
    return [
        image_cell("image", kind, severity, plan.seeds[0])
        for kind in kinds
        for severity in plan.severities
    ]


def add_examples(
    task: Task, store: Store, subset: str, images: TestImages, plan: Plan, pools: Pools
) -> None:
    """Keep a few pictures, clean and noisy, with the model's answers, and a few prompts.

    The pictures are the same for every model, chosen by their paths; so are the classes.
    """
    content, classnames = task.results.content, task.classifier.classnames
    shown = {
        (view["kind"], view["severity"]) for own in content["examples"] for view in own["views"]
    }
    cells, every = example_cells(plan), _every_cell(plan)
    if not {(cell.kind, cell.severity) for cell in every} <= shown:
        chosen = select(images.keys, images.labels, PICTURES)
        first = chosen[:AT_EVERY_SEVERITY]
        answers = {
            cell: _answers(task, images, chosen if cell in (None, *cells) else first, cell)
            for cell in (None, *every)
        }
        examples = [
            {
                "image": images.keys[index],
                "class": classnames[int(images.labels[index])],
                "views": [
                    {**_picture(store, subset, images, index, cell), **_view(task, own, place)}
                    for cell, own in answers.items()
                    if place < AT_EVERY_SEVERITY or cell in (None, *cells)
                ],
            }
            for place, index in enumerate(chosen)
        ]
        task.results.set("examples", examples)
    kinds = [k for k in plan.kinds.get("text", ()) if ALL_TEXT_KINDS[k].function is not None]
    severity = min(plan.severities, key=lambda s: abs(s - SEVERITY))
    noisy = [Cell("text", kind, severity, plan.seeds[0]) for kind in kinds]
    if task.classifier.template and not {*kinds} <= {
        example["kind"] for example in content["text_examples"]
    }:
        clean = Cell("text", "char", 0, plan.seeds[0])
        prompts = [
            {
                "kind": cell.kind if cell.severity else "clean",
                "severity": cell.severity,
                "prompts": task.classifier.prompts(cell, pools)[:PROMPTS],
            }
            for cell in (clean, *noisy)
        ]
        task.results.set("text_examples", prompts)
    task.results.save()


@torch.no_grad()
def _answers(task: Task, images: TestImages, chosen: Sequence[int], cell: Cell | None) -> Answers:
    """Return the answers to the chosen images: as they were given, or given anew."""
    given = task.clean if cell is None else task.kept.get(cell)
    if given is not None:
        return given.of(torch.tensor(chosen).numpy())
    classifier = task.classifier
    answers = Answers(images.labels[list(chosen)])
    pictures = torch.stack([images[(index, cell)] for index in chosen])
    encoded = classifier.encode(pictures, {})
    logits = classifier.classify(encoded, classifier.class_state())
    answers.add(slice(0, len(chosen)), logits)
    return answers


def _view(task: Task, answers: Answers, place: int) -> dict[str, Any]:
    rule = task.classifier.rule
    return {
        "answer": task.classifier.classnames[int(answers.predictions(rule)[place])],
        "probability": float(answers.confidence(rule)[place]),
    }


def _picture(
    store: Store, subset: str, images: TestImages, index: int, cell: Cell | None
) -> dict[str, Any]:
    kind = cell.kind if cell else "clean"
    name = f"{subset}/{index:05d}_{kind}{f'_{cell.severity}' if cell else ''}"
    return {
        "kind": kind,
        "severity": cell.severity if cell else 0,
        "picture": store.save_picture(name, images.picture(index, cell)),
    }
