"""Folders of runs as train.py and upstream's code leave them, with figures of one's choice."""

import json
import os
from pathlib import Path

STEMS = {
    "DescribableTextures": "dtd",
    "ImageNetA": "imagenet_a",
    "ImageNetSketch": "imagenet_sketch",
}
RESULT = """Evaluate on the *test* set
=> result
* total: 1,000
* accuracy: {accuracy}%
* error: {error}%
* macro_f1: 0.0%
"""


def stem(dataset: str) -> str:
    """The name of a data set's folder."""
    return STEMS.get(dataset, dataset.lower())


def write_results(
    folder: Path,
    trainer: str,
    dataset: str,
    accuracy: float,
    part: str = "all",
    seed: int = 1,
    shots: int = 16,
    training: Path | None = None,
    options: dict | None = None,
    **changes,
) -> Path:
    """A finished run's results.json. ``training``: of an evaluation, the folder of the model."""
    learns = trainer != "ZeroshotCLIP"
    model_dir = os.path.relpath(training, folder) if training else ""
    content = {
        "finished": True,
        "trainer": trainer,
        "dataset": dataset,
        "split": "test",
        "subsample_classes": part,
        "shots": shots,
        "seed": seed,
        "accuracy": accuracy,
        "rules": {},
        "headline_rule": None,
        "backbone": "small",
        "num_trainable": 100 if learns else 0,
        "config": {
            "SEED": seed,
            "OUTPUT_DIR": str(folder),
            "RUN": {"EVAL_ONLY": bool(training) or not learns, "MODEL_DIR": model_dir},
            "OPTIM": {"MAX_EPOCH": 10},
            **(options or {}),
        },
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def write_few_shot(root: Path, trainer: str, dataset: str, shots: int, accuracy: float, **more):
    """A run of the few-shot protocol where the scripts put it."""
    seed, config = more.get("seed", 1), more.pop("config", "vit_b16")
    folder = root / f"fewshot/{stem(dataset)}/shots_{shots}/{trainer}/{config}/seed{seed}"
    return write_results(folder, trainer, dataset, accuracy, shots=shots, **more)


def write_source(root: Path, trainer: str, source: str, accuracy: float, **more) -> Path:
    """A training of the cross-dataset protocol, tested on its own data set."""
    seed = more.get("seed", 1)
    folder = root / f"crossdata/train/{stem(source)}/shots_16/{trainer}/vit_b16/seed{seed}"
    return write_results(folder, trainer, source, accuracy, **more)


def write_target(
    root: Path, trainer: str, source: str, target: str, accuracy: float, **more
) -> Path:
    """A test on another data set of what ``write_source`` trained."""
    run = f"shots_16/{trainer}/vit_b16/seed{more.get('seed', 1)}"
    folder = root / f"crossdata/test/{stem(source)}/{stem(target)}/{run}"
    learns = trainer != "ZeroshotCLIP"
    training = root / f"crossdata/train/{stem(source)}/{run}" if learns else None
    return write_results(folder, trainer, target, accuracy, training=training, **more)


def write_base_new(
    root: Path, trainer: str, dataset: str, base: float, new: float, **more
) -> tuple[Path, Path]:
    """Both runs of the base-to-new protocol."""
    config = more.pop("config", "vit_b16")
    run = f"{stem(dataset)}/shots_16/{trainer}/{config}/seed{more.get('seed', 1)}"
    trained, tested = root / f"base2new/train_base/{run}", root / f"base2new/test_new/{run}"
    training = trained if trainer != "ZeroshotCLIP" else None
    write_results(trained, trainer, dataset, base, part="base", **more)
    write_results(tested, trainer, dataset, new, part="new", training=training, **more)
    return trained, tested


def write_log(
    folder: Path,
    trainer: str,
    dataset: str,
    accuracy: float | None,
    part: str = "all",
    seed: int = 1,
    shots: int = 16,
    model_dir: str | None = None,
    backbone: str = "ViT-B/16",
    end: str = "Finish training",
    name: str = "log.txt",
    task: str = "",
) -> Path:
    """A log in the wording of upstream's code. ``model_dir``: of an evaluation, "" for zero-shot;
    ``accuracy`` is None where the run was cut short."""
    is_evaluation = model_dir is not None
    lines = [
        "***************", "** Arguments **", "***************",
        f"backbone: {'' if backbone == 'ViT-B/16' else backbone}",
        f"config_file: configs/trainers/{trainer}/vit_b16.yaml",
        f"eval_only: {is_evaluation}", f"model_dir: {model_dir or ''}", "opts: ['A', '1']",
        f"seed: {seed}", f"trainer: {trainer}",
        "************", "** Config **", "************",
        "DATALOADER:", "  NUM_WORKERS: 8", "  TEST:", "    BATCH_SIZE: 100",
        "DATASET:", f"  NAME: {dataset}", f"  NUM_SHOTS: {shots}", "  SOURCE_DOMAINS: ()",
        f"  SUBSAMPLE_CLASSES: {part}",
        "MODEL:", "  BACKBONE:", f"    NAME: {backbone}", "  HEAD:", "    NAME: ",
        "OPTIM:", "  MAX_EPOCH: 5", f"SEED: {seed}",
        *([f"TASK: {task}"] if task else []), "TRAINER:", f"  NAME: {trainer}",
        "Collecting env info ...", "** System info **",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    if not is_evaluation:
        text += RESULT.format(accuracy=99.9, error=0.1).replace("*test*", "*val*")
    if accuracy is not None:
        text += "" if is_evaluation else f"{end}\nDeploy the last-epoch model\n"
        text += RESULT.format(accuracy=accuracy, error=round(100 - accuracy, 1))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder
