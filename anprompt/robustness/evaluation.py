"""Measures the cells: every image once for each noise, through every model that needs it."""

import contextlib
import itertools
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from anprompt.results.noise.files import Evaluation
from anprompt.robustness.answers import Answers
from anprompt.robustness.attacks import attacked, check_attack
from anprompt.robustness.classifier import Classifier
from anprompt.robustness.images import TestImages, select
from anprompt.robustness.misspelling import worst_names
from anprompt.robustness.plan import Plan, parse_plan
from anprompt.robustness.store import Outcomes, Results
from anprompt.robustness.texts import Pools
from common.errors import UsageError
from noise.cells import Cell
from noise.text import fill, text_rate

logger = logging.getLogger(__name__)

NO_POOLS = Pools()
MEANING_KEPT = 0.9  # cosine to the clean prompt from which on it is taken to mean the same


@dataclass
class Task:
    """A model, what it still lacks, and where that goes.

    Attributes:
        cells: to be measured.
        attacked_images: which images attacks are made on.
        outcomes: keeps attacks image by image; None: not kept.
        subset: what ``outcomes`` calls these classes.
        surrogate: the model that transferred attacks are made on.
        clean: answers without noise, once they are there.
        kept: answers under noise that somebody asked to keep.
    """

    classifier: Classifier
    results: Results
    cells: list[Cell]
    attacked_images: np.ndarray
    outcomes: Outcomes | None = None
    subset: str = ""
    surrogate: Classifier | None = None
    clean: Answers | None = None
    kept: dict[Cell, Answers] = field(default_factory=dict)

    def of(self, *groups: str) -> list[Cell]:
        """Return the cells of some groups."""
        return [cell for cell in self.cells if cell.group in groups]

    def done(self, measured: Mapping[Cell, Answers]) -> None:
        """Take in what a pass gave, and write it down."""
        self.results.add({cell: own.figures(self.clean) for cell, own in measured.items()})
        self.results.save()


def evaluate(
    classifiers: Classifier | Mapping[str, Classifier],
    images: TestImages,
    noise: str | Plan = "image",
    *,
    severities: str = "1-5",
    seeds: str = "3",
    eps: str = "1,4",
    pools: Pools = NO_POOLS,
    surrogate: Classifier | None = None,
    attack_images: int | None = None,
    batch_size: int = 100,
    workers: int = 0,
) -> dict[str, Evaluation]:
    """Put classifiers under noise.

    >>> from PIL import Image
    >>> from anprompt.robustness import Classifier, TestImages, evaluate
    >>> def logits(pictures):  # (B, 3, H, W), values 0 to 1 -> (B, 2): how red, how blue
    ...     return 10 * pictures.mean(dim=(2, 3))[:, [0, 2]]
    >>> pictures = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    >>> found = evaluate(
    ...     Classifier(logits, ["red", "blue"]),
    ...     TestImages(pictures, [0, 1]),
    ...     "gaussian_noise,pgd",
    ...     severities="5",
    ...     seeds="1",
    ...     eps="4",
    ... )
    >>> [(cell.key, cell.figures["accuracy"]) for cell in found["model"].cells()]
    [('image/gaussian_noise/5/1', 100.0), ('adversarial/pgd/4/1', 100.0)]

    Args:
        classifiers: by name; one alone is called "model". All must have the same classes.
        images: their test images; noise is the same for all.
        noise: what to measure, as the command's ``--noise``, or a whole plan.
        severities, seeds, eps: as the command's flags; not used with a plan.
        pools: what text noise draws from.
        surrogate: the model that kind ``transfer`` attacks.
        attack_images: how many of the images attacks are made on (default: all).
        batch_size, workers: of the loader.

    Returns:
        Each classifier's figures; what a model cannot take (text noise without words) is left out.

    Raises:
        UsageError: unknown noise, or an attack without its package.
    """
    named = {"model": classifiers} if isinstance(classifiers, Classifier) else dict(classifiers)
    if isinstance(noise, Plan):
        plan = noise
    else:
        plan = parse_plan(noise, severities, seeds, eps, pools.descriptions is not None)
    if "frost" in plan.kinds.get("imagenet-c", ()) and not images.how_imagenet_c().frost:
        raise UsageError(
            "kind frost needs its pictures: TestImages(..., imagenet_c=ImageNetC(frost=...)); "
            "anprompt.robustness.images.frost_pictures() downloads them"
        )
    chosen = np.array(select(images.keys, images.labels, attack_images))
    tasks = {}
    for name, classifier in named.items():
        cells = [cell for cell in plan.cells() if classifier.takes(cell)]
        header = {
            "classnames": classifier.classnames,
            "headline_rule": classifier.rule,
            "template": classifier.template,
            "images": {"used": len(images), "of": len(images), "sha256": ""},
        }
        results = Results(Results.begun(header))
        tasks[name] = Task(classifier, results, cells, chosen, surrogate=surrogate)
    measure(list(tasks.values()), images, pools, batch_size, workers)
    return {name: Evaluation.in_memory(name, task.results.content) for name, task in tasks.items()}


def measure(
    tasks: Sequence[Task],
    images: TestImages,
    pools: Pools,
    batch_size: int,
    workers: int = 0,
    title: str = "",
    keep: Collection[Cell] = (),
) -> None:
    """Measure what is missing, writing each model's results after every pass over the images.

    Args:
        tasks: models of one set of classes; all meet the same corrupted pictures.
        images: their test images.
        pools: what text noise draws from.
        title: of the progress bar.
        keep: image cells whose answers each task keeps.
    """
    tasks = [task for task in tasks if task.cells or not task.results.content["clean"]]
    if not tasks:
        return
    for task in tasks:
        for cell in task.of("adversarial"):
            check_attack(cell.kind, len(task.classifier.classnames))
    noises = [cell.image_cell for task in tasks for cell in task.cells if cell.image_cell]
    shown: list[Cell | None] = [None, *dict.fromkeys(noises)]
    tokens = list(dict.fromkeys(cell for task in tasks for cell in task.of("learned")))
    texts = _text_cells(tasks)
    batches = -(-len(images) // batch_size)
    steps = sum(map(len, texts.values())) + batches * (len(shown) + len(tokens))
    with tqdm(total=steps, desc=title, unit="step", mininterval=1, disable=None) as bar:
        states = _text_states(texts, pools, bar)
        passes = images.passes([*shown, *([None] * len(tokens))], batch_size, workers)
        for noisy, (_, pictures) in zip([*shown, *tokens], passes, strict=True):
            bar.set_postfix_str(noisy.key if noisy else "clean", refresh=False)
            if noisy is not None and noisy.group == "learned":
                _tokens_pass(noisy, tasks, images, pictures, bar)
            else:
                _pictures_pass(noisy, tasks, images, pictures, states, bar, keep)
    for task in tasks:
        for cell in task.of("worst-text"):
            _worst_text(task, cell, images, batch_size)
        for cell in task.of("adversarial"):
            if cell.kind != "transfer":
                _attack(task, cell, images, batch_size, title)
    attacks = [cell for task in tasks for cell in task.of("adversarial")]
    for cell in dict.fromkeys(cell for cell in attacks if cell.kind == "transfer"):
        own = [task for task in tasks if cell in task.cells]
        transferred: Transferred = {}
        for task in own:
            is_shared = sum(other.surrogate is task.surrogate for other in own) > 1
            _attack(task, cell, images, batch_size, title, transferred if is_shared else None)


# Text ------------------------------------------------------------------------------------------

States = dict[tuple[int, Cell], Any]  # by task (its id) and text cell


def _text_cells(tasks: Sequence[Task]) -> dict[Cell, list[Task]]:
    """Return the text cells with the models that need them."""
    texts: dict[Cell, list[Task]] = {}
    for task in tasks:
        for cell in dict.fromkeys(own.text_cell for own in task.cells):
            if cell is not None:
                texts.setdefault(cell, []).append(task)
    return texts


def _text_states(texts: Mapping[Cell, list[Task]], pools: Pools, bar: tqdm) -> States:
    """Give every model the prompts under each text cell's noise.

    Cell by cell, not model by model: noise on a backbone's words is drawn once for its models.
    """
    states: States = {}
    prompts: dict[int, dict[Cell, list[str]]] = {}
    for cell, own in texts.items():
        for task in own:
            classifier = task.classifier
            noisy = classifier.prompts(cell, pools)
            if cell.kind == "embed":
                with classifier.noisy_words(text_rate("embed", cell.severity), cell.seed or 0):
                    states[id(task), cell] = classifier.prompted_state(noisy)
            else:
                states[id(task), cell] = classifier.state_of(noisy)
                prompts.setdefault(id(task), {})[cell] = noisy
            bar.update()
    for task in {id(task): task for own in texts.values() for task in own}.values():
        _record_meaning(task, prompts.get(id(task), {}))
    return states


def _record_meaning(task: Task, prompts: Mapping[Cell, list[str]]) -> None:
    """Note the share of prompts whose meaning a text encoder takes to be kept."""
    known = task.results.content.get("meaning_kept") or {}
    new = [cell for cell in prompts if cell.key not in known]
    if not new:
        return
    clean = [fill(task.classifier.template, word) for word in task.classifier.words]
    noisy = [text for cell in new for text in prompts[cell]]
    cosines = task.classifier.similarity(noisy, clean * len(new))
    if cosines is None:
        return
    kept = (cosines >= MEANING_KEPT).float().view(len(new), -1).mean(dim=1)
    shares = {cell.key: 100 * share for cell, share in zip(new, kept.tolist(), strict=True)}
    task.results.set("meaning_kept", {**known, **shares})


def _worst_text(task: Task, cell: Cell, images: TestImages, batch_size: int) -> None:
    """Choose the worst misspellings, and measure under them."""
    classifier = task.classifier
    names = worst_names(classifier, images, cell.seed or 0, batch_size)
    prompts = [fill(classifier.template, name) for name in names]
    if not classifier.template.endswith("."):
        prompts = [prompt.rstrip(".") for prompt in prompts]
    state = classifier.state_of(prompts)
    answers = Answers(images.labels)
    with torch.no_grad():
        for _, batches in images.passes([None], batch_size):
            for batch, pictures in batches:
                answers.add(batch, classifier.classify(classifier.encode(pictures, {}), state))
    task.results.set("worst_names", dict(zip(classifier.classnames, names, strict=True)))
    task.done({cell: answers})


# Images ----------------------------------------------------------------------------------------

Batches = Iterator[tuple[slice, Tensor]]


@torch.no_grad()
def _pictures_pass(
    cell: Cell | None,
    tasks: Sequence[Task],
    images: TestImages,
    batches: Batches,
    states: States,
    bar: tqdm,
    keep: Collection[Cell],
) -> None:
    """One pass over the images, clean or under an image cell's noise, through the models.

    Models meet the clean images with clean and noisy prompts, and noisy images with clean prompts
    and, for pairs, noisy ones.
    """
    wanted: list[tuple[Task, dict[Cell, Answers]]] = []
    for task in tasks:
        own = [c for c in task.cells if c.image_cell == cell and (c.text_cell or c.image_cell)]
        if own or cell is None:
            wanted.append((task, {c: Answers(images.labels) for c in own}))
        if cell is None:
            task.clean = Answers(images.labels)
    for batch, pictures in batches:
        shared: dict[Any, Any] = {}
        for task, answers in wanted:
            classifier = task.classifier
            encoded = classifier.encode(pictures, shared)
            plain = None
            if cell is None or any(c.text_cell is None for c in answers):
                plain = classifier.classify(encoded, classifier.class_state())
            if cell is None and task.clean is not None and plain is not None:
                task.clean.add(batch, plain)
            for own_cell, found in answers.items():
                text = own_cell.text_cell
                if text is None:
                    found.add(batch, plain or {})
                else:
                    found.add(batch, classifier.classify(encoded, states[id(task), text]))
        bar.update()
    for task, answers in wanted:
        if cell is None and task.clean is not None:
            task.results.add_clean(task.clean.figures())
        task.kept.update({c: own for c, own in answers.items() if c in keep})
        task.done(answers)


@torch.no_grad()
def _tokens_pass(
    cell: Cell, tasks: Sequence[Task], images: TestImages, batches: Batches, bar: tqdm
) -> None:
    """One pass over the clean images, with noise on what the models have learned."""
    rate = text_rate("embed", cell.severity)
    wanted = [(task, Answers(images.labels)) for task in tasks if cell in task.cells]
    with contextlib.ExitStack() as noise:
        for task, _ in wanted:
            noise.enter_context(task.classifier.noisy_tokens(rate, cell.seed or 0))
        for batch, pictures in batches:
            for task, answers in wanted:
                encoded = task.classifier.encode(pictures, {})
                answers.add(batch, task.classifier.classify(encoded, task.classifier.class_state()))
            bar.update()
    for task, answers in wanted:
        task.done({cell: answers})


# Attacks ---------------------------------------------------------------------------------------


# Images made on a surrogate (its id), by their numbers: they are the same for all models.
Transferred = dict[tuple[int, tuple[int, ...]], Tensor]


def _attack(
    task: Task,
    cell: Cell,
    images: TestImages,
    batch_size: int,
    title: str,
    transferred: Transferred | None = None,
) -> None:
    """Attack a model's images one batch after the other; each batch is kept once it is done.

    Args:
        transferred: of an attack that is made on another model: what was made for others, and gets
            what is made here; None: nobody else needs it.
    """
    classifier, chosen = task.classifier, task.attacked_images
    target = classifier
    if cell.kind == "transfer":
        if task.surrogate is None:
            raise UsageError("--noise transfer: no model to make the images on")
        target = task.surrogate
    assert task.clean is not None
    known: dict[str, dict[str, list[float]]] = {}
    if task.outcomes:
        classes = len(classifier.classnames)
        known = task.outcomes.of(task.subset, cell, task.clean.rules, classes)
    answers = Answers(images.labels[chosen])
    for place, image in enumerate(chosen):
        if images.keys[image] in known:
            answers.restore(place, known[images.keys[image]])
    left = [place for place, image in enumerate(chosen) if images.keys[image] not in known]
    with torch.no_grad():
        state = classifier.class_state()
    started = time.monotonic()
    name = f"{title}: {cell.kind} {cell.severity}/255".removeprefix(": ")
    passes = itertools.count(1)
    with tqdm(
        total=len(chosen),
        initial=len(chosen) - len(left),
        desc=name,
        unit="image",
        miniters=0,  # shows passes before the first image is done
        disable=None,
    ) as bar:

        def on_pass() -> None:
            bar.set_postfix(passes=next(passes), refresh=False)
            bar.update(0)

        for start in range(0, len(left), batch_size):
            places = left[start : start + batch_size]
            indices = [int(chosen[place]) for place in places]
            made = (id(target), tuple(indices))
            changed = (transferred or {}).get(made)
            if changed is None:
                changed = attacked(
                    target,
                    cell.kind,
                    cell.severity,
                    images.tensors(indices),
                    torch.from_numpy(images.labels[indices]),
                    seed=cell.seed or 0,
                    keys=[images.keys[i] for i in indices],
                    on_pass=on_pass,
                )
                if transferred is not None:
                    transferred[made] = changed.cpu()  # all images would not fit a GPU
            own = Answers(images.labels[indices])
            with torch.no_grad():
                logits = classifier.classify(classifier.encode(changed, {}), state)
            own.add(slice(0, len(indices)), logits)
            for i, (place, image) in enumerate(zip(places, indices, strict=True)):
                known[images.keys[image]] = own.of_image(i)
                answers.restore(place, known[images.keys[image]])
            if task.outcomes:
                task.outcomes.save()
            bar.update(len(indices))
    if left:
        seconds = time.monotonic() - started
        rate = len(left) / max(seconds, 1e-9)
        logger.info(f"{name}: {len(left)} images in {seconds:.0f} s, {rate:.2f} images a second")
    clean = task.clean.of(chosen)
    task.results.add({cell: answers.figures(clean)})
    if len(chosen) < len(images):
        part = dict(task.results.content.get("attacked") or {})
        task.results.set("attacked", {**part, "clean": clean.figures()})
    task.results.save()
