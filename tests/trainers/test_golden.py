"""Parity with upstream: from its initial tensors and batch order, its losses and its logits."""

import pathlib

import inputs
import pytest
import torch
from safetensors.torch import load_file
from yacs.config import CfgNode

from anprompt.runs.config import default_cfg
from dassl.engine import build_trainer

pytestmark = pytest.mark.slow

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"

# (recorded run, registered name, which logits of the record are the model's answer)
TRAINED = [
    ("coop", "CoOp", "logits"),
    ("coop_ctxv1", "CoOp", "logits"),
    ("coop_csc_middle", "CoOp", "logits"),
    ("coop_front", "CoOp", "logits"),
    ("maple", "MaPLe", "logits"),
    ("mmrl_reg1", "MMRL", "logits_fusion"),
]


def golden_cfg(record: dict, trainer: str, clip_path, data_root, output, subsample="base"):
    """Our configuration with a recorded run's settings."""
    cfg = default_cfg()
    settings = record.get("config")
    if settings:
        cfg.merge_from_other_cfg(
            CfgNode({key: settings[key] for key in ("OPTIM", "TRAINER", "LOSS") if key in settings})
        )
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE = settings["BATCH_SIZE"]
    for node in cfg.TRAINER.values():
        if isinstance(node, dict) and "PREC" in node:
            node.PREC = "fp32"
    cfg.INPUT.SIZE = (64, 64)
    cfg.INPUT.INTERPOLATION = "bicubic"
    cfg.INPUT.TRANSFORMS = ("normalize",)
    cfg.INPUT.PIXEL_MEAN = [0.48145466, 0.4578275, 0.40821073]
    cfg.INPUT.PIXEL_STD = [0.26862954, 0.26130258, 0.27577711]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TEST.BATCH_SIZE = 100
    cfg.DATASET.NAME = "EuroSAT"
    cfg.DATASET.ROOT = str(data_root)
    cfg.DATASET.NUM_SHOTS = 16
    cfg.DATASET.SUBSAMPLE_CLASSES = subsample
    cfg.MODEL.BACKBONE.NAME = str(clip_path)
    cfg.TRAINER.NAME = trainer
    cfg.OUTPUT_DIR = str(output)
    cfg.SEED = 1
    cfg.USE_CUDA = False
    return cfg


def load_initial(trainer, name: str, record: dict) -> None:
    """Put upstream's recorded initial tensors into the learner; all must find their place."""
    tensors = load_file(GOLDEN / f"{record.get('initial', name)}.safetensors")
    for copy, original in record["equal_tensors"].items():
        tensors[copy] = tensors[original]
    learner = trainer.model.prompt_learner
    named = {trainer.model.rename_key(key): tensor for key, tensor in tensors.items()}
    assert set(named) == set(learner.state_dict())
    learner.load_state_dict(named)


def recorded_batch(dataset, index: list[int]) -> dict:
    items = [dataset[i] for i in index]
    return {
        "img": torch.stack([item["img"] for item in items]),
        "label": torch.tensor([item["label"] for item in items]),
    }


def train_as_recorded(trainer, steps: list[dict]) -> list[float]:
    """Take the recorded steps, at the recorded learning rates; the losses."""
    trainer.prepare_training()
    trainer.set_model_mode("train")
    trainer.num_batches = 1 + max(step["batch"] for step in steps)
    losses = []
    for step in steps:
        trainer.epoch, trainer.batch_idx = step["epoch"], step["batch"]
        assert trainer.get_current_lr() == pytest.approx(step["lr"], rel=1e-9)
        batch = recorded_batch(trainer.train_loader_x.dataset, step["index"])
        if "seed" in step:  # of what the step draws, such as the start of an attack
            torch.manual_seed(step["seed"])
        losses.append(float(trainer.forward_backward(batch)["loss"]))
    return losses


def check_logits(trainer, record: dict, key: str, logits_name: str, tolerance: float) -> None:
    dataset = trainer.test_loader.dataset
    trainer.set_model_mode("eval")
    for probe in record[key].values():
        images = torch.stack([dataset[i]["img"] for i in probe["test_index"]])
        with torch.no_grad():
            logits = trainer.model_inference(images)
        expected = torch.tensor(probe.get(logits_name, probe["logits"]))
        torch.testing.assert_close(logits, expected, atol=tolerance, rtol=0)


@pytest.fixture
def make_trainer(tiny_clip_path, fake_eurosat, tmp_path):
    def make(record, name, **settings):
        cfg = golden_cfg(record, name, tiny_clip_path, fake_eurosat, tmp_path, **settings)
        cfg.freeze()
        return build_trainer(cfg)

    return make


@pytest.mark.parametrize(("name", "trainer_name", "logits_name"), TRAINED)
def test_training_reproduces_upstream(name, trainer_name, logits_name, golden, make_trainer):
    record = golden(name)
    trainer = make_trainer(record, trainer_name)
    dataset = trainer.train_loader_x.dataset
    assert [item.label for item in dataset.data_source] == [label for _, label in record["train_x"]]
    load_initial(trainer, name, record)
    check_logits(trainer, record, "init_test_logits", logits_name, tolerance=1e-3)

    losses = train_as_recorded(trainer, record["steps"])
    expected = [step["loss"] for step in record["steps"]]
    assert losses[:10] == pytest.approx(expected[:10], abs=1e-4)
    assert losses == pytest.approx(expected, abs=1e-3)
    check_logits(trainer, record, "final_test_logits", logits_name, tolerance=2e-3)
    assert trainer.test() == pytest.approx(record["accuracy_base"])


@pytest.mark.parametrize(
    ("name", "subsample"),
    [
        ("zeroshot__eval_base", "base"),
        ("zeroshot__eval_new", "new"),
        ("zeroshot__eval_all", "all"),
    ],
)
def test_zero_shot_reproduces_upstream(name, subsample, golden, make_trainer):
    record = golden(name)
    trainer = make_trainer(record, "ZeroshotCLIP", subsample=subsample)
    assert trainer.dm.dataset.classnames == record["classnames"]
    check_logits(trainer, record, "final_test_logits", "logits", tolerance=1e-3)
    assert trainer.test() == pytest.approx(record["accuracy"])


def test_inputs_are_those_of_the_record(tiny_clip_state_dict):
    """The digest check of the fixture is live: one changed weight is noticed."""
    digest = inputs.state_dict_digest(tiny_clip_state_dict)
    changed = dict(tiny_clip_state_dict, logit_scale=torch.tensor(4.0))
    assert inputs.state_dict_digest(changed) != digest
