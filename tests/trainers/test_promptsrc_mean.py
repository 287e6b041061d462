"""PromptSRC's mean over the epochs: deployed, saved, and whole after an interruption."""

import json
import pathlib

import numpy as np
import pytest
import torch
from test_golden import golden_cfg

from anprompt.runs.config import default_cfg
from dassl.engine import TRAINER_REGISTRY, build_trainer
from trainers.promptsrc import gaussian_epoch_weights

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_epoch_weights():
    weights = gaussian_epoch_weights(20, 15, 1)
    assert weights.sum() == pytest.approx(1)
    assert weights.argmax() == 14  # epoch 15, counted from 1
    assert weights[13] / weights[14] == pytest.approx(np.exp(-0.5))
    assert gaussian_epoch_weights(2, 90, 1).tolist() == pytest.approx([0, 1])  # a shortened run


@pytest.fixture
def make_promptsrc(tiny_clip_path, fake_eurosat, tmp_path):
    def make(folder, trainer_class=None, **changes):
        cfg = golden_cfg({}, "PromptSRC", tiny_clip_path, fake_eurosat, tmp_path / folder)
        cfg.DATASET.NUM_SHOTS = 1
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
        cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR, cfg.OPTIM.NAME = 3, 0.05, "sgd"
        node = cfg.TRAINER.PROMPTSRC
        node.PROMPT_DEPTH_TEXT = node.PROMPT_DEPTH_VISION = 2
        node.GPA_MEAN, node.GPA_STD = 2, 1
        cfg.merge_from_list([item for pair in changes.items() for item in pair])
        cfg.freeze()
        torch.manual_seed(1)
        return build_trainer(cfg) if trainer_class is None else trainer_class(cfg)

    return make


def test_the_mean_over_epochs_is_deployed_and_saved(make_promptsrc, tmp_path):
    trainer = make_promptsrc("run")
    seen = []
    original = trainer.aggregate

    def noting(epoch):
        state = trainer.model.prompt_learner.state_dict()
        seen.append({name: tensor.clone() for name, tensor in state.items()})
        original(epoch)

    trainer.aggregate = noting
    trainer.train()
    assert len(seen) == 3
    weights = gaussian_epoch_weights(3, 2, 1)
    fresh = make_promptsrc("fresh")
    fresh.load_model(str(tmp_path / "run"), epoch=3)
    for name, tensor in fresh.model.prompt_learner.state_dict().items():
        expected = sum(w * state[name] for w, state in zip(weights, seen, strict=True))
        torch.testing.assert_close(tensor, expected.float(), atol=1e-6, rtol=1e-5)
        assert torch.equal(tensor, trainer.model.prompt_learner.state_dict()[name])
        assert not torch.allclose(tensor, seen[-1][name], atol=1e-6)


class Interrupted(TRAINER_REGISTRY.get("PromptSRC")):
    before = 2

    def before_epoch(self):
        if self.epoch == self.before:
            raise KeyboardInterrupt
        super().before_epoch()


@pytest.mark.parametrize(("precision", "before"), [("fp32", 2), ("bf16", 1)])
def test_the_mean_survives_an_interruption(
    make_promptsrc, tmp_path, monkeypatch, precision, before
):
    """In bf16 a second CLIP, in full precision, is built for the text teacher."""
    monkeypatch.setattr(Interrupted, "before", before)
    how = {"TRAINER.PROMPTSRC.PREC": precision}
    whole = make_promptsrc("whole", **how)
    whole.train()

    with pytest.raises(KeyboardInterrupt):
        make_promptsrc("parts", Interrupted, **how).train()
    resumed = make_promptsrc("parts", **how)
    torch.manual_seed(99)  # the checkpoint's random state counts, not the process's
    resumed.train()
    for name, tensor in resumed.model.prompt_learner.state_dict().items():
        assert torch.equal(tensor, whole.model.prompt_learner.state_dict()[name]), name
    figures = [
        json.loads((tmp_path / run / "results.json").read_text())["accuracy"]
        for run in ("whole", "parts")
    ]
    assert figures[0] == figures[1]


def test_no_continuation_without_the_mean_of_earlier_epochs(make_promptsrc):
    """Dassl.pytorch resumes a run but does not keep what a trainer adds to a checkpoint."""

    class Forgetful(TRAINER_REGISTRY.get("PromptSRC")):
        def load_extra_state(self, state):
            pass

    with pytest.raises(KeyboardInterrupt):
        make_promptsrc("parts", Interrupted).train()
    with pytest.raises(ValueError, match="go on from epoch 2: .* Remove the folder"):
        make_promptsrc("parts", Forgetful).train()


def test_gpa_settings_by_training_data_set():
    cfg = default_cfg()
    cfg.merge_from_file(
        str(ROOT / "configs/trainers/PromptSRC/vit_b16_c2_ep50_batch4_4+4ctx_few_shot.yaml")
    )
    gpa = TRAINER_REGISTRY.get("PromptSRC").gaussian_of
    for dataset, expected in (("EuroSAT", (45, 5)), ("Caltech101", (30, 30))):
        cfg.DATASET.NAME = dataset
        assert gpa(cfg) == expected
    cfg.merge_from_list(["TRAINER.PROMPTSRC.GPA_MEAN", 20])
    assert gpa(cfg) == (20, 30)


# MMRL++ ----------------------------------------------------------------------------------------
