"""Fit confidences, and say how well calibrated a run is before and after.

    python -m anprompt calibrate RUN
    python -m anprompt calibrate output/base2new/test_new/... --dac
    python -m anprompt predict --model-dir RUN --calibrate temperature images/

RUN is the folder of a tested run. The temperature is fitted on the validation images of its
training (on the training images with --fit-on train, or where there are no others), never on those
that the figures are reported on. --dac also scales each answer by how far its class lies from the
classes trained on, which is meant for classes not trained on. Answers, and so accuracy, stay as
they are. Figures are computed from the predictions that the test kept: nothing is tested again.
A method with several inference rules has a temperature for the logits of each. RUN/calibration.json
has them and the figures; predict --calibrate and export's onnx and torch take them from there.

exit status: 0 done, 2 bad input.
"""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from anprompt.runs.arguments import add_plugin_option
from common.cli import CommandParser
from common.errors import UsageError
from common.paths import image_key

FITTED = ("train", "val", "few_shot", "train_files")  # digests of what may be fitted on
HEADERS = ("", "accuracy", "ECE", "adaptive ECE", "MCE", "Brier", "NLL")


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="anprompt calibrate",
        description=__doc__,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a tested run")
    add("--fit-on", choices=("val", "train"), default="val", help="images to fit on (default: val)")
    add("--dac", action="store_true", help="distance-aware calibration as well")
    add("--root", default="", metavar="DIR", help="folder of the data sets, if it has moved")
    add("--batch", type=int, default=64, metavar="N", help="batch size (default 64)")
    add_plugin_option(parser)
    return parser


def main(argv: list[str]) -> int:
    """Run ``anprompt calibrate``; return the exit status."""
    args = make_parser().parse_args(argv)
    if args.batch < 1:
        raise UsageError(f"--batch {args.batch}: give 1 or more")
    from anprompt.results.predictions import read_predictions
    from anprompt.runs.calibration import FILE_NAME, TEMPERATURES, Scaling, factors_of
    from anprompt.runs.config import load_plugin
    from anprompt.runs.predictor import Predictor
    from anprompt.runs.trained import read_cfg
    from dassl.utils import write_json

    for plugin in args.plugin:
        load_plugin(plugin)
    read_cfg(args.run, args.root)
    kept = read_predictions(args.run)
    if not kept:
        raise UsageError(f"{args.run}: no kept answers; test it with TEST.SAVE_PREDICTIONS True")
    answers = next(iter(kept.values()))
    if answers.log_probabilities is None:
        raise UsageError(f"{args.run}: of so many images and classes only the best five are kept")
    tested = set(answers.paths.tolist())
    temperatures, fitted_on = fit(args.run, args.root, args.fit_on, tested, args.batch)
    temperature = temperatures[answers.rule]
    _check_same_model(args.run, fitted_on["checkpoint"])
    scalings = {"before": Scaling(), "temperature": Scaling(temperature)}
    if args.dac:
        factors = factors_of(Predictor.load(args.run, None, args.root).trained)
        scalings |= {"DAC": Scaling(1.0, factors), "both": Scaling(temperature, factors)}
    figures = {name: measure(answers, scaling) for name, scaling in scalings.items()}
    content = {
        "temperature": temperature,
        "temperatures": temperatures,
        "fitted_on": fitted_on | {"rule": answers.rule},
        "figures": figures,
    }
    write_json(content, str(args.run / FILE_NAME))
    images = f"{fitted_on['images']:,} images of {fitted_on['split']}"
    print(f"temperature {temperature:.4f}, fitted on {images}")
    if fitted_on["split"] == "train":
        print("on images trained on a model is surer than elsewhere: look whether this helps")
    if not TEMPERATURES[0] * 1.01 < temperature < TEMPERATURES[1] / 1.01:
        print("it is at the end of the range that is looked through: no temperature fits these")
    print(f"{len(answers.labels):,} images tested, {answers.rule} logits; % but for Brier and NLL")
    rows = [
        [name, *(f"{row[key]:.{2 if key not in ('brier', 'nll') else 4}f}" for key in row)]
        for name, row in figures.items()
    ]
    print(tabulate(rows, HEADERS, tablefmt="simple", disable_numparse=True))
    for line in warnings_on(figures):
        print(line)
    return 0


def warnings_on(figures: dict[str, dict[str, float]]) -> list[str]:
    """Return a line on each scaling that fits the test images worse than none, by NLL."""
    before = figures["before"]["nll"]
    return [
        f"{name} makes confidences worse on these images (NLL {row['nll']:.4f}, before "
        f"{before:.4f}): leave --calibrate {name.lower()} out"
        for name, row in figures.items()
        if row["nll"] > before
    ]


def fit(
    run: Path, root: str, split: str, tested: Collection[str], batch: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the temperature of a run's training under each inference rule of its method, and what
    they were fitted on.

    Raises:
        UsageError: there are no images to fit on, or its data have changed since: images that it
            was trained on may be for validation now.
    """
    import numpy as np
    from tqdm import tqdm

    from anprompt.runs.calibration import checkpoint_of, fit_temperature
    from anprompt.runs.identity import refuse_changed_data
    from anprompt.runs.predictor import Predictor
    from anprompt.runs.trained import quiet, read_cfg, training_folder
    from dassl.data.datasets import build_dataset
    from datasets import identity

    asked = read_cfg(run, root)
    folder = training_folder(asked)
    epoch = asked.RUN.LOAD_EPOCH if asked.RUN.LOAD_EPOCH >= 0 else None
    cfg = read_cfg(folder, root)
    now = {key: digest for key, digest in identity(cfg).items() if key in FITTED}
    refuse_changed_data(folder, now, "a temperature is fitted on images kept from its training")
    with quiet():
        dataset = build_dataset(cfg)
    items, name = images_for(dataset, split, tested, cfg.DATASET.ROOT)
    predictor = Predictor.load(folder, list(dataset.classnames), root, epoch)
    starts = tqdm(range(0, len(items), batch), disable=None)
    parts = [
        predictor.logits_by_rule([item.impath for item in items[i : i + batch]]) for i in starts
    ]
    labels = np.array([item.label for item in items])
    temperatures = {
        rule: fit_temperature(np.concatenate([part[rule].numpy() for part in parts]), labels)
        for rule in parts[0]
    }
    fitted_on = {"run": str(folder), "split": name, "images": len(items)}
    return temperatures, fitted_on | {"checkpoint": checkpoint_of(predictor.trained)}


def _check_same_model(run: Path, checkpoint: str) -> None:
    """Refuse a test whose answers are those of another checkpoint than is there now."""
    from anprompt.runs.recorded import read_results

    identity = (read_results(run) or {}).get("identity") or {}
    tested = set((identity.get("checkpoint") or {}).values())
    if tested and checkpoint not in tested:
        raise UsageError(
            f"{run}: its training has another checkpoint now than was tested; test again"
        )


def images_for(
    dataset: Any, split: str, tested: Collection[str], root: str
) -> tuple[Sequence[Any], str]:
    """Return the images to fit on and the split that they are: none is among those tested on.

    Args:
        tested: images, as the kept answers name them.
        root: the folder of the data sets.
    """
    choices = {"val": dataset.val, "train": dataset.train_x}
    for name in ("val", "train") if split == "val" else ("train",):
        items = choices[name]
        if items and not any(image_key(item.impath, dataset, root) in tested for item in items):
            return items, name
    raise UsageError("no images to fit on but those that are tested on")


def measure(answers: Any, scaling: Any) -> dict[str, float]:
    """Return accuracy and calibration of kept answers whose logits are scaled; rates in %."""
    import torch

    from anprompt.results.statistics import calibration

    logits = torch.from_numpy(answers.log_probabilities).double()
    # A best answer that rounding has made a tie stays the one that was given.
    first = torch.from_numpy(answers.top_classes[:, :1])
    logits.scatter_(1, first, logits.gather(1, first) + 1e-6)
    probabilities = scaling(logits).softmax(dim=-1).numpy()
    labels = answers.labels
    answered = probabilities.argmax(axis=1)
    found = asdict(
        calibration(
            probabilities.max(axis=1),
            answered == labels,
            probabilities[range(len(labels)), labels],
            probabilities,
            labels,
        )
    )
    rates = {key: 100 * found[key] for key in ("ece", "adaptive_ece", "mce")}
    accuracy = 100 * float((answered == labels).mean())
    return {"accuracy": accuracy, **rates, "brier": found["brier"], "nll": found["nll"]}
