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

from anprompt.runs.export import write_upstream
from anprompt.runs.trained import trained_from
from clip.model import build_model
from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import load_checkpoint, save_checkpoint

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
    def make(record, name, subsample="base", init="", **settings):
        output = tmp_path / "out"
        cfg = golden_cfg(record, name, tiny_clip_path, fake_eurosat, output, subsample)
        cfg.DATASET.NUM_SHOTS = 2
        cfg.MODEL.INIT_WEIGHTS = init
        cfg.TRAINER[TRAINER_REGISTRY.get(name).method].update(settings)
        cfg.freeze()
        return build_trainer(cfg)

    return make


@pytest.fixture(scope="module")
def clip_of(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False).eval()


@pytest.mark.parametrize(("name", "base_logits", "new_logits"), WRITTEN_BY_UPSTREAM)
def test_file_written_by_upstream(name, base_logits, new_logits, make_trainer, tmp_path, caplog):
    caplog.set_level("INFO")
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
        caplog.clear()
        trainer.load_model(str(tmp_path), epoch=2)
        assert f"Ignored {record['ignored']} tensors" in caplog.text
        assert "(epoch 2)" in caplog.text
        check_logits(trainer, record, key, logits_name, tolerance=1e-3)


@pytest.mark.parametrize("name", [name for name, *_ in WRITTEN_BY_UPSTREAM])
def test_a_file_for_upstream_has_upstreams_names(name, make_trainer, clip_of, tmp_path):
    """What upstream's own code wrote is read, and written again as it was."""
    record = json.loads((GOLDEN / "upstream" / f"{name}.json").read_text())
    theirs = load_checkpoint(str(GOLDEN / "upstream" / f"{name}.pth.tar"))
    cfg = golden_cfg(record, record["method"], "", "", tmp_path)
    trained = trained_from(cfg, ["a", "b", "c", "d", "e"], clip_of, theirs)
    path = write_upstream(trained, tmp_path / "ours")
    assert path == tmp_path / "ours" / record["folder"] / "model.pth.tar-2"
    ours = torch.load(path, weights_only=True)
    assert ours["epoch"] == theirs["epoch"] == 2
    assert len(ours["state_dict"]) == record["learned"]
    for key, tensor in ours["state_dict"].items():
        assert torch.equal(tensor, theirs["state_dict"][key]), key


@pytest.mark.parametrize(("name", "trainer_name"), SAME_LAYOUT)
def test_names_for_upstream_are_those_of_its_tensors(name, trainer_name, golden, clip_of, tmp_path):
    record = golden(name)
    cfg = golden_cfg(record, trainer_name, "", "", tmp_path)
    trained = trained_from(cfg, ["a", "b", "c", "d", "e"], clip_of, {})
    learned = trained.model.prompt_learner.state_dict()
    recorded = load_file(GOLDEN / f"{name}.safetensors")
    names = {*recorded, *record["equal_tensors"]}
    if name == "kgcoop":
        names = {key.removeprefix("prompt_learner.") for key in names}
    renamed = {key: trained.model.upstream_key(key) for key in learned}
    assert set(renamed.values()) == names
    assert {trained.model.rename_key(theirs): theirs for theirs in names} == renamed


def test_what_no_upstream_knows_is_not_written(clip_of, tmp_path):
    for name in ("ANPrompt", "ZeroshotCLIP"):
        trained = trained_from(golden_cfg({}, name, "", "", tmp_path), ["a", "b"], clip_of, {})
        with pytest.raises(UsageError, match=f"{name}: no upstream repository"):
            write_upstream(trained, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def live_schedule() -> dict:
    """What Dassl.pytorch saves of a warm-up schedule: numbers, and the inner schedule itself."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
    inner = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2.0)
    return {"successor": inner, "warmup_epoch": 1, "last_epoch": 2}


@pytest.mark.parametrize(("name", "trainer_name"), SAME_LAYOUT)
def test_file_in_upstreams_layout(name, trainer_name, golden, make_trainer, tmp_path, caplog):
    caplog.set_level("INFO")
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
    trainer.load_model(str(tmp_path), epoch=3)
    assert f"Ignored {len(frozen)} tensors" in caplog.text
    for key, tensor in learned.items():
        own = trainer.model.prompt_learner.state_dict()[trainer.model.rename_key(key)]
        assert own.dtype == torch.float32
        assert torch.equal(own, tensor.half().float()), key


@pytest.mark.parametrize(
    ("name", "shallow", "deep"),
    [
        ("MaPLe", {"PROMPT_DEPTH": 2}, {"PROMPT_DEPTH": 3}),
        ("IVLP", {"PROMPT_DEPTH_VISION": 2}, {"PROMPT_DEPTH_VISION": 3}),
        ("MMRL", {"REP_LAYERS": [2]}, {"REP_LAYERS": [2, 3]}),
    ],
)
def test_a_file_with_more_layers_is_refused(name, shallow, deep, make_trainer, tmp_path):
    """A part of what was learned would be another model."""
    depth = {"PROMPT_DEPTH_TEXT": 2} if name == "IVLP" else {}
    deeper = make_trainer({}, name, **deep, **depth)
    deeper.save_model(0, str(tmp_path))
    trainer = make_trainer({}, name, **shallow, **depth)
    before = {key: x.clone() for key, x in trainer.model.prompt_learner.state_dict().items()}
    with pytest.raises(ValueError, match="reach fewer layers"):
        trainer.load_model(str(tmp_path), epoch=1)
    for key, tensor in trainer.model.prompt_learner.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_tokens_of_another_width_say_the_setting(make_trainer, tmp_path):
    make_trainer({}, "MMRL", REP_DIM=96).save_model(0, str(tmp_path))
    with pytest.raises(ValueError, match="set TRAINER.MMRL.REP_DIM 96"):
        make_trainer({}, "MMRL", REP_DIM=64).load_model(str(tmp_path), epoch=1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 1}, "state_dict is missing"),
        ({"state_dict": {}, "epoch": "one"}, "epoch is one, not a whole number"),
        ({"state_dict": {}, "meta": {"train_seconds": "long"}}, "meta/train_seconds is long"),
        ({"state_dict": {}, "meta": {"classnames": "cat"}}, "meta/classnames is cat, not a list"),
        ({"state_dict": {"ctx": "a word"}, "epoch": 1}, "'ctx'"),
        ({"state_dict": {}, "epoch": 1, "meta": None}, "meta"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(content, said, make_trainer, tmp_path):
    folder = tmp_path / "prompt_learner"
    folder.mkdir()
    torch.save(content, folder / "model.pth.tar-1")
    with pytest.raises(ValueError, match=said) as raised:
        make_trainer({}, "CoOp").load_model(str(tmp_path), epoch=1)
    assert "model.pth.tar-1" in str(raised.value)


def test_training_from_another_trainings_parameters(make_trainer, tmp_path):
    """Only what is learned is taken over: the noise prompts are those of the new classes, and which
    data set is the source, how long was trained and for how many epochs begin anew.
    """
    first = make_trainer({}, "ANPrompt")
    first.prepare_training()
    first.train_seconds = 300.0
    first.save_model(6, str(tmp_path))
    path = tmp_path / first.model_name / "model.pth.tar-7"
    content = torch.load(path, weights_only=True)
    content["meta"]["dataset"] = "Food101"
    save_checkpoint(content, str(path.parent))
    second = make_trainer({}, "ANPrompt", init=str(path))
    assert torch.equal(second.model.prompt_learner.tokens, first.model.prompt_learner.tokens)
    assert not second.model.prompt_learner.noise_prompts.any()
    assert second.model.rule == first.model.rule == "mix"
    assert not second.trained_epochs and not second.train_seconds


def test_another_methods_file_is_refused(make_trainer, tmp_path):
    record = json.loads((GOLDEN / "upstream" / "coop.json").read_text())
    folder = tmp_path / "prompt_learner"
    folder.mkdir()
    shutil.copy(GOLDEN / "upstream" / "coop.pth.tar", folder / "model.pth.tar-2")
    trainer = make_trainer({}, "CoCoOp")
    before = trainer.model.prompt_learner.ctx.detach().clone()
    with pytest.raises(ValueError, match="not a checkpoint of CoCoOpCLIP, no 'meta_net"):
        trainer.load_model(str(tmp_path), epoch=2)
    assert torch.equal(trainer.model.prompt_learner.ctx, before)
    wider = make_trainer({}, "CoOp")  # 16 context vectors by default, the file has 4
    assert record["config"]["TRAINER"]["COOP"]["N_CTX"] == 4
    with pytest.raises(ValueError, match=r"ctx has shape \(4, 128\), this run needs \(16, 128\)"):
        wider.load_model(str(tmp_path), epoch=2)
