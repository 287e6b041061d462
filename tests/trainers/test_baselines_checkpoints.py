"""Checkpoints of upstream repositories are read: their learned tensors, and nothing else.

tests/golden/upstream holds files that upstream's own code wrote (two epochs, shallow prompts). To
keep them small, most frozen tensors were taken out of ``state_dict``, the fixed token embeddings
cut to one position, and the optimisers' references to tensors emptied; the live scheduler object
is as it was.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_golden import GOLDEN, check_logits, golden_cfg

from dassl.engine import build_trainer

WRITTEN_BY_UPSTREAM = [
    ("coop", "logits", "logits"),
    ("cocoop", "logits", "logits"),
    ("maple", "logits", "logits"),
    ("promptsrc", "logits", "logits"),
    ("mmrl", "logits_fusion", "logits"),
]
# Trainers whose upstream files are only imitated here: (recorded run, registered name)
SAME_LAYOUT = [("kgcoop", "KgCoOp"), ("vpt", "VPT"), ("ivlp", "IVLP"), ("mmrlpp", "MMRLpp")]


@pytest.fixture
def make_trainer(tiny_clip_path, fake_eurosat, tmp_path):
    def make(record, name, subsample="base"):
        output = tmp_path / "out"
        cfg = golden_cfg(record, name, tiny_clip_path, fake_eurosat, output, subsample)
        cfg.DATASET.NUM_SHOTS = 2
        cfg.freeze()
        return build_trainer(cfg)

    return make


@pytest.mark.parametrize(("name", "base_logits", "new_logits"), WRITTEN_BY_UPSTREAM)
def test_file_written_by_upstream(name, base_logits, new_logits, make_trainer, tmp_path, capsys):
    record = json.loads((GOLDEN / "upstream" / f"{name}.json").read_text())
    folder = tmp_path / record["folder"]
    folder.mkdir()
    shutil.copy(GOLDEN / "upstream" / f"{name}.pth.tar", folder / "model.pth.tar-2")
    for subsample, key, logits_name in (
        ("base", "final_test_logits", base_logits),
        ("new", "final_test_logits_new", new_logits),
    ):
        trainer = make_trainer(record, record["method"], subsample)
        assert len(trainer.model.prompt_learner.state_dict()) == record["learned"]
        capsys.readouterr()
        trainer.load_model(str(tmp_path), epoch=2)
        printed = capsys.readouterr().out
        assert f"Ignored {record['ignored']} tensors" in printed
        assert "(epoch 2)" in printed
        check_logits(trainer, record, key, logits_name, tolerance=1e-3)


def live_schedule() -> dict:
    """What Dassl.pytorch saves of a warm-up schedule: numbers, and the inner schedule itself."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
    inner = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2.0)
    return {"successor": inner, "warmup_epoch": 1, "last_epoch": 2}


@pytest.mark.parametrize(("name", "trainer_name"), SAME_LAYOUT)
def test_file_in_upstreams_layout(name, trainer_name, golden, make_trainer, tmp_path, capsys):
    record = golden(name)
    learned = load_file(GOLDEN / f"{name}.safetensors")
    for copy, original in record["equal_tensors"].items():
        learned[copy] = learned[original]
    frozen = {
        "image_encoder.proj": torch.ones(128, 64),
        "image_encoder.class_embedding": torch.ones(128),
        "text_encoder.text_projection": torch.ones(128, 64),
        "prompt_learner.token_prefix": torch.ones(5, 1, 128),
        "logit_scale": torch.tensor(1.0),
    }
    if name == "kgcoop":  # registers the learner alone, so no name has a prefix
        learned = {key.removeprefix("prompt_learner."): value for key, value in learned.items()}
        frozen = {"token_prefix": torch.ones(5, 1, 128), "bias_vectors": torch.ones(1, 512)}
    trainer = make_trainer(record, trainer_name)
    folder = tmp_path / trainer.model_name
    folder.mkdir()
    checkpoint = {
        "state_dict": {**frozen, **{key: value.half() for key, value in learned.items()}},
        "epoch": 3,
        "optimizer": {"state": {}, "param_groups": []},
        "scheduler": live_schedule(),
        "val_result": None,
    }
    torch.save(checkpoint, folder / "model.pth.tar-3")
    capsys.readouterr()
    trainer.load_model(str(tmp_path), epoch=3)
    assert f"Ignored {len(frozen)} tensors" in capsys.readouterr().out
    for key, tensor in learned.items():
        own = trainer.model.prompt_learner.state_dict()[trainer.own_name(key)]
        assert own.dtype == torch.float32
        assert torch.equal(own, tensor.half().float()), key


def test_another_methods_file_is_refused(make_trainer, tmp_path):
    record = json.loads((GOLDEN / "upstream" / "coop.json").read_text())
    folder = tmp_path / "prompt_learner"
    folder.mkdir()
    shutil.copy(GOLDEN / "upstream" / "coop.pth.tar", folder / "model.pth.tar-2")
    trainer = make_trainer({}, "CoCoOp")
    before = trainer.model.prompt_learner.ctx.detach().clone()
    with pytest.raises(ValueError, match="not a CoCoOp checkpoint, no 'meta_net"):
        trainer.load_model(str(tmp_path), epoch=2)
    assert torch.equal(trainer.model.prompt_learner.ctx, before)
    wider = make_trainer({}, "CoOp")  # 16 context vectors by default, the file has 4
    assert record["config"]["TRAINER"]["COOP"]["N_CTX"] == 4
    with pytest.raises(ValueError, match=r"ctx has shape \(4, 128\), this run needs \(16, 128\)"):
        wider.load_model(str(tmp_path), epoch=2)
