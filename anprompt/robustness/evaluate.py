"""Runs the cells: every image once for each noise, through every model that still needs it."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from anprompt.robustness.attacks import autoattack
from anprompt.robustness.images import TestImages, select
from anprompt.robustness.models import Subject
from anprompt.robustness.plan import Cell, Plan, image_cell
from anprompt.robustness.store import Store
from anprompt.robustness.texts import Descriptions, noisy_tokens
from noise.adversarial import pgd
from noise.metrics import calibration_error, consistency
from noise.text import TEXT_KINDS, text_rate
from noise.torch_seeding import torch_generator_for

PGD_STEPS = 10
PGD_STEP_SHARE = 1 / 4  # of the bound
EXAMPLES = 8
EXAMPLE_PROMPTS = 3
EXAMPLE_SEVERITY = 3


@dataclass
class Work:
    """A model, what it still lacks, and where that goes."""

    subject: Subject
    store: Store
    part: str
    cells: list[Cell]


class Answers:
    """Predictions and their probabilities for all images, by inference rule."""

    def __init__(self, number: int):
        self._number = number
        self._rules: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, part: slice, logits: dict[str, torch.Tensor]) -> None:
        """Take in logits (B, C) of the images ``part``, by rule."""
        for rule, values in logits.items():
            confidence, answer = values.float().softmax(dim=-1).max(dim=-1)
            if rule not in self._rules:
                self._rules[rule] = (np.zeros(self._number, int), np.zeros(self._number))
            self._rules[rule][0][part] = answer.cpu().numpy()
            self._rules[rule][1][part] = confidence.cpu().numpy()

    def predictions(self, rule: str) -> np.ndarray:
        return self._rules[rule][0]

    def figures(
        self, labels: np.ndarray, clean: "Answers | None" = None
    ) -> dict[str, dict[str, float]]:
        """Accuracy, calibration error and consistency with ``clean``, in percent, by rule."""
        result = {}
        for rule, (answers, confidence) in self._rules.items():
            correct = answers == labels
            result[rule] = {
                "accuracy": 100 * float(correct.mean()),
                "ece": 100 * calibration_error(confidence, correct),
            }
            if clean is not None:
                result[rule]["consistency"] = 100 * consistency(clean.predictions(rule), answers)
        return result


def measure(
    works: Sequence[Work],
    images: TestImages,
    after: Callable[[torch.Tensor], torch.Tensor],
    descriptions: Descriptions | None,
    batch_size: int,
    workers: int = 0,
    title: str = "",
) -> None:
    """Measure what is missing, writing each model's results after every pass over the images.

    Args:
        works: models of one data set and part; all meet the same corrupted pictures.
        images: their test images.
        after: the rest of the test transform, (3, H, W) from 0 to 1 -> the model's input.
        title: of the progress bar.
    """
    works = [work for work in works if work.cells or not _part(work)["clean"]]
    if not works:
        return
    image_cells = {cell.image_cell: None for work in works for cell in _with(work, "image", "both")}
    others = {c: None for work in works for c in _with(work, "learned", "adversarial")}
    passes: list[Cell | None] = [None, *image_cells, *others]
    shown = [cell if cell in image_cells else None for cell in passes]
    runner = _Runner(works, images, after, descriptions)
    # Cell by cell, not model by model: noise on a backbone's words is drawn once for its models.
    texts: dict[Cell, list[Work]] = {}
    for work in works:
        for cell in dict.fromkeys(c.text_cell for c in _with(work, "text", "both")):
            texts.setdefault(cell, []).append(work)
    batches = len(passes) * -(-len(images) // batch_size)
    steps = sum(map(len, texts.values())) + batches
    with tqdm(total=steps, desc=title, unit="step", mininterval=1) as bar:
        for cell, own in texts.items():
            for work in own:
                work.subject.text_state(cell, descriptions)
                bar.update()
        for number, part, pictures in images.batches(shown, batch_size, workers):
            cell = passes[number]
            if part.start == 0:
                runner.begin(cell)
                bar.set_postfix_str(cell.key if cell else "clean", refresh=False)
            runner.step(cell, part, pictures)
            bar.update()
            if part.stop == len(images):
                runner.end(cell)


def _with(work: Work, *groups: str) -> list[Cell]:
    return [cell for cell in work.cells if cell.group in groups]


def _part(work: Work) -> dict[str, Any]:
    return work.store.content["parts"][work.part]


class _Runner:
    """The state of one call of `measure`."""

    def __init__(self, works: Sequence[Work], images: TestImages, after: Callable, descriptions):
        self.works = works
        self.images = images
        self.after = after
        self.descriptions = descriptions
        self.clean = {id(work): Answers(len(images)) for work in works}
        self.now: list[tuple[Work, dict[Cell, Answers]]] = []
        self.noise = contextlib.ExitStack()

    def begin(self, cell: Cell | None) -> None:
        """Make ready for a pass: which cells of which model it gives."""
        self.now = []
        for work in self.works:
            if cell is None:
                own = _with(work, "text")
            elif cell.group == "image":
                own = [c for c in _with(work, "image", "both") if c.image_cell == cell]
            else:
                own = [c for c in work.cells if c == cell]
            if own or cell is None:
                self.now.append((work, {c: Answers(len(self.images)) for c in own}))
        if cell is not None and cell.group == "learned":
            rate = text_rate("embed", cell.severity)
            for work, _ in self.now:
                learner = work.subject.model.prompt_learner
                self.noise.enter_context(noisy_tokens(learner, rate, cell.seed))

    @torch.no_grad()
    def step(self, cell: Cell | None, part: slice, pictures: torch.Tensor) -> None:
        """One batch of a pass, through every model that needs it."""
        shared: dict[int, Any] = {}
        inputs = None
        for work, answers in self.now:
            subject = work.subject
            model = subject.model
            if inputs is None or inputs.device != subject.device:
                inputs = self.prepare(pictures.to(subject.device))
                shared.clear()
            if cell is not None and cell.group == "adversarial":
                answers[cell].add(part, self.attacked(subject, cell, part, pictures))
                continue
            encoded = subject.encode(inputs, shared)
            if cell is None:
                self.clean[id(work)].add(part, model.classify(encoded, model.class_state()))
            for own, of_own in answers.items():
                if own.group in ("text", "both"):
                    state = subject.text_state(own.text_cell, self.descriptions)
                else:
                    state = model.class_state()
                of_own.add(part, model.classify(encoded, state))

    def end(self, cell: Cell | None) -> None:
        """After a pass: compute its figures and write them down."""
        self.noise.close()
        labels = self.images.labels
        for work, answers in self.now:
            clean = self.clean[id(work)]
            if cell is None:
                _part(work)["clean"] = clean.figures(labels)
            figures = {own: of_own.figures(labels, clean) for own, of_own in answers.items()}
            work.store.add(work.part, figures)
            work.store.save()

    def prepare(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.after(picture) for picture in pictures])

    def attacked(
        self, subject: Subject, cell: Cell, part: slice, pictures: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Logits of images changed, within the bound, to mislead this very model."""
        model, device = subject.model, subject.device
        state = model.class_state()
        pictures = pictures.to(device)
        labels = torch.from_numpy(self.images.labels[part]).to(device)

        def logits(values: torch.Tensor) -> torch.Tensor:
            return model.classify(model.encode(self.prepare(values)), state)[model.rule]

        eps = cell.severity / 255
        if cell.kind == "pgd":
            keys = self.images.keys[part]
            starts = [torch_generator_for(cell.seed, "pgd", key) for key in keys]
            changed = pgd(logits, pictures, labels, eps, eps * PGD_STEP_SHARE, PGD_STEPS, starts)
        else:
            changed = autoattack(logits, pictures, labels, eps, cell.seed, len(subject.classnames))
        return model.classify(model.encode(self.prepare(changed)), state)


def add_examples(
    work: Work, images: TestImages, after: Callable, plan: Plan, descriptions: Descriptions | None
) -> None:
    """Keep a few pictures, clean and noisy, with what the model says of them, and a few prompts.

    The pictures are the same for every model, chosen by their paths; so are the classes.
    """
    part = _part(work)
    severity = min(plan.severities, key=lambda s: abs(s - EXAMPLE_SEVERITY))
    shown = {view["kind"] for example in part["examples"] for view in example["views"]}
    if plan.image_kinds and not set(plan.image_kinds) <= shown:
        cells = [image_cell(kind, severity, plan.seeds[0]) for kind in plan.image_kinds]
        chosen = select(images.keys, images.labels.tolist(), EXAMPLES)
        part["examples"] = [
            {
                "image": images.keys[index],
                "class": work.subject.classnames[int(images.labels[index])],
                "views": _views(work, images, after, index, [None, *cells]),
            }
            for index in chosen
        ]
    kinds = [kind for kind in plan.text_kinds if TEXT_KINDS[kind].function is not None]
    if not {*kinds} <= {example["kind"] for example in part["text_examples"]}:
        clean = Cell("text", "char", 0, plan.seeds[0])
        noisy = [Cell("text", kind, severity, plan.seeds[0]) for kind in kinds]
        part["text_examples"] = [
            {
                "kind": cell.kind if cell.severity else "clean",
                "severity": cell.severity,
                "prompts": work.subject.prompts(cell, descriptions)[:EXAMPLE_PROMPTS],
            }
            for cell in (clean, *noisy)
        ]
    work.store.save()


@torch.no_grad()
def _views(
    work: Work, images: TestImages, after: Callable, index: int, cells: Sequence[Cell | None]
) -> list[dict[str, Any]]:
    """A picture under each noise, kept beside the results, and the model's answers."""
    subject = work.subject
    model, device = subject.model, subject.device
    inputs = torch.stack([after(images[(index, cell)]) for cell in cells]).to(device)
    logits = model.classify(model.encode(inputs), model.class_state())[model.rule]
    confidences, answers = logits.float().softmax(dim=-1).max(dim=-1)
    views = []
    for cell, confidence, answer in zip(cells, confidences.tolist(), answers.tolist(), strict=True):
        kind = cell.image_kind if cell else "clean"
        name = f"{work.part}/{index:05d}_{kind}"
        views.append(
            {
                "kind": kind,
                "severity": cell.severity if cell else 0,
                "picture": work.store.save_picture(name, images.picture(index, cell)),
                "answer": subject.classnames[answer],
                "probability": confidence,
            }
        )
    return views
