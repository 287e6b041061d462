"""Every trainer of this project on whichever ``dassl`` is found first: a program for a test.

    python dassl_runner.py DATA CLIP OUTPUT FILE.json [DASSL_REPO]

Each trainer is built, gets seeded parameters, takes two steps on fixed images, trains one epoch in
the loop of that ``dassl``, tests, and is loaded again from the checkpoint that was written. What
came of it goes to FILE.json. With DASSL_REPO, a checkout of Dassl.pytorch, that one is found first;
otherwise it is ours.
"""

import contextlib
import functools
import importlib
import io
import json
import re
import sys
import traceback
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    *("INPUT.SIZE", (64, 64), "INPUT.INTERPOLATION", "bicubic", "INPUT.TRANSFORMS", ("normalize",)),
    *("DATASET.NAME", "EuroSAT", "DATASET.NUM_SHOTS", 2, "DATASET.SUBSAMPLE_CLASSES", "base"),
    *("DATALOADER.NUM_WORKERS", 0, "DATALOADER.TRAIN_X.BATCH_SIZE", 4),
    *("OPTIM.MAX_EPOCH", 1, "OPTIM.LR", 0.01, "OPTIM.WARMUP_EPOCH", 1, "SEED", 1),
    *("OPTIM.WARMUP_TYPE", "constant", "OPTIM.WARMUP_CONS_LR", 0.005),
    *("OPTIM.LR_SCHEDULER", "cosine", "USE_CUDA", False),
]
STEPS = ((0, 11, 22, 33), (44, 5, 16, 27))  # indices of test images
PROBED = 6  # images whose logits are compared


def shim_upstream() -> None:
    """What Dassl.pytorch 0.6.3 needs to run on current PyTorch, and without optional packages."""
    import torch

    scheduler = torch.optim.lr_scheduler.LRScheduler
    original = scheduler.__init__
    # It passes "verbose", which PyTorch has dropped.
    scheduler.__init__ = lambda self, optimizer, last_epoch=-1, *_: original(
        self, optimizer, last_epoch
    )
    # Its checkpoints hold a live scheduler.
    load = torch.load
    torch.load = functools.wraps(load)(lambda *a, **k: load(*a, **{"weights_only": False, **k}))
    # It imports data sets of a package that few machines have, whatever the data set.
    sys.modules["dassl.data.datasets.dg.wilds"] = types.ModuleType("wilds")
    try:
        import tabulate  # noqa: F401
    except ImportError:
        # It prints one table with it. PyTorch asks for the package as well: there it stays absent.
        import torchvision  # noqa: F401

        sys.modules["tabulate"] = types.ModuleType("tabulate")
        sys.modules["tabulate"].tabulate = lambda rows: "\n".join(map(str, rows))
        import dassl.data  # noqa: F401

        del sys.modules["tabulate"]


def make_cfg(name: str, data: str, clip: str, output: Path):
    from dassl.config import get_cfg_default
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    cfg = get_cfg_default()
    for trainer in own_trainers():
        TRAINER_REGISTRY.get(trainer).extend_cfg(cfg)
    DATASET_REGISTRY.get("EuroSAT").extend_cfg(cfg)
    settings = [*SETTINGS, "TRAINER.NAME", name, "DATASET.ROOT", data, "OUTPUT_DIR", str(output)]
    cfg.merge_from_list([*settings, "MODEL.BACKBONE.NAME", clip])
    cfg.INPUT.PIXEL_MEAN = [0.48145466, 0.4578275, 0.40821073]
    cfg.INPUT.PIXEL_STD = [0.26862954, 0.26130258, 0.27577711]
    for node in cfg.TRAINER.values():
        if isinstance(node, dict) and "PREC" in node:
            node.PREC = "fp32"
    cfg.TRAINER.CLIPLORA.STEPS_PER_SHOT = 0  # Dassl.pytorch's epochs are the images once
    cfg.freeze()
    return cfg


def own_trainers() -> list[str]:
    """Registered names, without those that Dassl.pytorch brings."""
    from dassl.engine import TRAINER_REGISTRY

    names = TRAINER_REGISTRY.registered_names()
    return sorted(
        name
        for name in names
        for found in (TRAINER_REGISTRY.get(name),)
        if found.__module__.startswith("trainers.") and found.task == "classification"
    )


def images(trainer, index):
    import torch

    dataset = trainer.test_loader.dataset
    items = [dataset[i] for i in index]
    return {
        "img": torch.stack([item["img"] for item in items]),
        "label": torch.tensor([int(item["label"]) for item in items]),
    }


def logits(trainer) -> list:
    import torch

    trainer.set_model_mode("eval")
    with torch.no_grad():
        return trainer.model_inference(images(trainer, range(PROBED))["img"]).tolist()


def take_steps(trainer) -> list[float]:
    """From seeded parameters, two steps that do not depend on the order of any loader."""
    import torch

    parameters = [] if not trainer.get_model_names() else trainer.model.prompt_learner.parameters()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    losses: list[float] = []
    if not parameters:
        return losses
    trainer.prepare_training()
    trainer.set_model_mode("train")
    trainer.num_batches = len(STEPS) + 1  # not the epoch's last: the schedule stays
    for trainer.batch_idx, index in enumerate(STEPS):  # noqa: B020
        losses.append(float(trainer.forward_backward(images(trainer, index))["loss"]))
    return losses


def run(name: str, data: str, clip: str, output: Path) -> dict:
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    cfg = make_cfg(name, data, clip, output)
    set_random_seed(1)
    trainer = build_trainer(cfg)
    losses = take_steps(trainer)
    report = {"losses": losses, "stepped": logits(trainer)}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        trainer.train()
    report["printed"] = printed.getvalue()
    report["accuracy"] = re.findall(r"^\* accuracy: ([\d.]+)%$", printed.getvalue(), flags=re.M)
    report["trained"] = logits(trainer)
    fresh = build_trainer(cfg)
    fresh.load_model(str(output), epoch=1)
    report["loaded"] = logits(fresh)
    return report


def main(data: str, clip: str, output: str, file: str, dassl_repo: str = "") -> None:
    sys.path[:1] = [*filter(None, [dassl_repo]), str(ROOT)]
    import torch

    import common.torchvision_compat  # noqa: F401

    torch.set_num_threads(1)
    if dassl_repo:
        shim_upstream()
    import dassl
    import datasets  # noqa: F401  (registers the data sets)
    import trainers  # noqa: F401  (registers the trainers)

    public = json.loads(sys.stdin.read())
    report = {
        "dassl": dassl.__file__,
        "missing": [
            f"{module}.{name}"
            for module, names in public.items()
            for name in names
            if not hasattr(importlib.import_module(module), name)
        ],
        "trainers": {},
    }
    for name in own_trainers():
        try:
            report["trainers"][name] = run(name, data, clip, Path(output) / name)
        except Exception:
            report["trainers"][name] = {"error": traceback.format_exc()}
    Path(file).write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
