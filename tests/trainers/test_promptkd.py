"""PromptKD: parity with upstream, its teacher's training within a run, and what it sees of data."""

import json
import shutil

import pytest
import torch
from inputs import random_clip_state_dict
from safetensors.torch import load_file
from test_golden import GOLDEN, golden_cfg, train_as_recorded

from anprompt.robustness.texts import noisy_words
from anprompt.runs.deploy import _without_text_tower
from anprompt.runs.export import write_export
from anprompt.runs.trained import trained_from
from common.errors import UsageError
from dassl.engine import build_trainer
from dassl.utils import load_checkpoint, set_random_seed
from datasets.base import FewShotDataset
from trainers import promptkd
from trainers.promptkd import distillation_loss

pytestmark = pytest.mark.slow

TEACHER = {"vw": 192, "vl": 12, "patch": 16, "image": 64, "tw": 128, "tl": 12, "embed": 96}


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "teacher.pt"
    torch.save(random_clip_state_dict(TEACHER, seed=7), path)
    return path


@pytest.fixture
def make_trainer(tiny_clip_path, teacher_path, fake_eurosat, tmp_path):
    def make(output="run", subsample="base", name="PromptKD", **settings):
        cfg = golden_cfg({}, name, tiny_clip_path, fake_eurosat, tmp_path / output, subsample)
        cfg.DATASET.NUM_SHOTS = 2
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 8
        optim = {"NAME": "sgd", "LR": 0.005, "MAX_EPOCH": 3, "LR_SCHEDULER": "cosine"}
        optim |= {"WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant", "WARMUP_CONS_LR": 1e-5}
        cfg.OPTIM.update(optim)
        own = {"TEACHER_NAME": str(teacher_path), "TEACHER_EPOCHS": 2, "TEACHER_BATCH": 4}
        cfg.TRAINER.PROMPTKD.update(own | settings)
        cfg.freeze()
        set_random_seed(1)
        return build_trainer(cfg)

    return make


def learned(trainer):
    return {name: x.clone() for name, x in trainer.model.prompt_learner.state_dict().items()}


def assert_equal(some, others):
    assert some.keys() == others.keys()
    for name, tensor in some.items():
        assert torch.equal(tensor, others[name]), name


def interrupt(trainer):
    raise KeyboardInterrupt


def test_loss_is_the_divergence_from_the_teacher():
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    by_hand = sum(float(a * (a / b).log()) for a, b in zip(p.flatten(), q.flatten(), strict=True))
    assert float(distillation_loss(student, teacher, 2.0)) == pytest.approx(4 * by_hand / 15)
    assert float(distillation_loss(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-12)


def test_training_reproduces_upstream(golden, make_trainer, monkeypatch, tmp_path):
    record = golden("promptkd")
    trainer = make_trainer()
    monkeypatch.setattr(trainer, "_take_teacher", lambda: None)  # the record's, below
    tensors = load_file(GOLDEN / "promptkd.safetensors")
    learner = trainer.model.prompt_learner
    assert set(tensors) == set(learner.state_dict())
    learner.load_state_dict(tensors)

    def check(trainer, when, part):
        images = trainer.test_loader.dataset
        trainer.set_model_mode("eval")
        with torch.no_grad():
            logits = trainer.model(torch.stack([images[i]["img"] for i in range(0, 50, 5)]))
        expected = torch.tensor(record[when][part])
        torch.testing.assert_close(logits, expected, atol=2e-3, rtol=0)

    check(trainer, "first", "base")
    losses = train_as_recorded(trainer, record["steps"])
    assert losses == pytest.approx([step["loss"] for step in record["steps"]], rel=1e-4)
    check(trainer, "last", "base")
    trainer.save_model(2, str(tmp_path / "saved"))
    on_new = make_trainer(output="new", subsample="new")
    on_new.load_model(str(tmp_path / "saved"), epoch=3)
    check(on_new, "last", "new")


def test_learns_from_all_training_images_and_classes_without_labels(make_trainer):
    trainer = make_trainer(subsample="base")
    trainer.before_train()
    dataset, images = trainer.dm.dataset, trainer.train_loader_x.dataset.data_source
    assert len(images) == 10 * 20 and len(dataset.train_x) == 5 * 2
    assert {item.label for item in images} == {0} and {item.classname for item in images} == {""}
    paths = {item.impath for item in images}
    assert {item.impath for item in dataset.train_x} < paths
    assert not paths & {item.impath for item in [*dataset.val, *dataset.test]}
    on_new = make_trainer(output="new", subsample="new").dm.dataset
    assert not paths & {item.impath for item in [*on_new.val, *on_new.test]}
    assert dataset.all_classnames == [*dataset.classnames, *on_new.classnames]
    assert trainer.model.taught_text.shape == (10, TEACHER["embed"])
    batch = next(iter(trainer.train_loader_x))
    before = trainer.loss(trainer.training_batch(batch))
    other = trainer.loss(trainer.training_batch({**batch, "label": batch["label"] + 3}))
    assert torch.equal(before.total, other.total) and torch.equal(before.label, other.label)


def test_teacher_is_what_promptsrc_alone_learns(make_trainer, teacher_path, tmp_path):
    """The same tensors to the bit, read from a file too, and the student's training alike."""
    trainer = make_trainer()
    trainer.train()
    cfg = trainer.teacher_cfg(trainer.cfg).clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(tmp_path / "alone")
    set_random_seed(1)
    alone = build_trainer(cfg)
    alone.train()
    own = {name: x for name, x in learned(trainer).items() if name.startswith("teacher.")}
    assert_equal(own, {f"teacher.{name}": x for name, x in learned(alone).items()})

    file = tmp_path / "alone" / "VLPromptLearner" / "model.pth.tar-2"
    given = make_trainer(output="given", TEACHER_PROMPTS=str(file))
    given.train()
    assert_equal(learned(trainer), learned(given))
    assert not (tmp_path / "given" / "teacher").exists()
    assert not list((tmp_path / "run").rglob("teacher/results.json"))


@pytest.mark.parametrize("epoch", [1, 2])
def test_killed_while_the_teacher_trains(epoch, make_trainer, monkeypatch):
    """After its first epoch, and when it is done: the same run goes on, and ends the same."""
    whole = make_trainer(output="whole")
    whole.train()
    with monkeypatch.context() as patch:

        class Killed(promptkd.TeacherTraining):
            def before_epoch(self):
                if self.epoch == epoch:
                    raise KeyboardInterrupt
                super().before_epoch()

            after_train = interrupt

        patch.setattr(promptkd, "TeacherTraining", Killed)
        with pytest.raises(KeyboardInterrupt):
            make_trainer(output="parts").train()
    resumed = make_trainer(output="parts")
    resumed.train()
    assert_equal(learned(whole), learned(resumed))


def test_a_teacher_of_other_data_is_not_gone_on_with(make_trainer, monkeypatch, tmp_path):
    """Data may be mended before the student's first checkpoint; the teacher has seen the old."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "identity.json").write_text('{"data": {"train": "1"}}')
    with monkeypatch.context() as patch:
        patch.setattr(promptkd.TeacherTraining, "after_train", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_trainer().train()
    before = sorted((tmp_path / "run" / "teacher").rglob("*.tar*"))
    (tmp_path / "run" / "identity.json").write_text('{"data": {"train": "2"}}')
    with pytest.raises(UsageError, match="begun with other settings or data; remove .*/teacher"):
        make_trainer().train()
    assert sorted((tmp_path / "run" / "teacher").rglob("*.tar*")) == before
    (tmp_path / "run" / "identity.json").write_text('{"data": {"train": "1"}}')
    make_trainer().train()


def test_nothing_is_learned_from_test_images(make_trainer, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(type(trainer.dm.dataset), "test_is_train", True)
    with pytest.raises(UsageError, match="EuroSAT has test images only"):
        trainer.train()


def test_another_teacher_is_refused(make_trainer, teacher_path, tmp_path):
    """In a test, in going on from another folder, and as the backbone of prompts that are given."""
    trainer = make_trainer()
    trainer.train()
    seconds = load_checkpoint(tmp_path / "run/teacher/VLPromptLearner/model.pth.tar-2")["meta"]
    assert trainer.train_seconds > seconds["train_seconds"] > 0
    other = tmp_path / "other.pt"
    torch.save(random_clip_state_dict(TEACHER, seed=8), other)
    said = "its teacher was another backbone, or had"
    with pytest.raises(UsageError, match=said):
        make_trainer(output="test", TEACHER_NAME=str(other)).load_model(str(tmp_path / "run"))
    longer = make_trainer(output="longer", TEACHER_NAME=str(other))
    longer.cfg.defrost()
    longer.cfg.RESUME = str(tmp_path / "run")
    with pytest.raises(UsageError, match=said):
        longer.train()
    moved = tmp_path / "moved.pt"
    shutil.copy(teacher_path, moved)
    make_trainer(output="moved", TEACHER_NAME=str(moved)).load_model(str(tmp_path / "run"))
    prompts = str(tmp_path / "run/teacher/VLPromptLearner/model.pth.tar-2")
    given = make_trainer(output="given", TEACHER_NAME=str(other), TEACHER_PROMPTS=prompts)
    with pytest.raises(UsageError, match="TEACHER_PROMPTS .* trained on backbone"):
        given.train()


def test_an_export_knows_its_teacher(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save_model(0, str(tmp_path / "run"))
    checkpoint = load_checkpoint(tmp_path / "run/VLPromptLearner/model.pth.tar-1")
    names = list(trainer.dm.dataset.classnames)
    trained = trained_from(trainer.cfg, names, trainer.model.clip, checkpoint)
    write_export(trained, names, tmp_path / "export")
    meta = json.loads((tmp_path / "export" / "model.json").read_text())["trained_on"]
    assert meta["teacher_weights"] == trainer.model.teacher_weights != ""
    assert not hasattr(_without_text_tower(trained.model), "teacher")


def test_noise_in_words_is_noise_for_the_teacher_that_reads_them(make_trainer):
    trainer = make_trainer()
    own, names = trainer.model.clip, list(trainer.dm.dataset.classnames)
    learned = {"state_dict": trainer.model.prompt_learner.state_dict(), "meta": {}}
    trained = trained_from(trainer.cfg, names, own, learned)
    texts = trained.model.prompts.texts
    with torch.no_grad():
        clean = trained.model.class_state()
        with noisy_words(trained.model.text_clip, 0.3, 1):
            noisy = trained.with_texts(texts).class_state()
        assert torch.equal(trained.with_texts(texts).class_state(), clean)
    assert trained.model.text_clip is not own and (noisy - clean).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TEACHER_NAME": "small"}, "'small': takes images of another size"),
        ({"PROMPT_DEPTH_VISION": 13}, "PROMPTKD.PROMPT_DEPTH_VISION 13: choose 1 to 12"),
    ],
)
def test_what_does_not_fit_is_named(settings, said, make_trainer):
    with pytest.raises(UsageError, match=said):
        make_trainer(**settings)


def test_batches_of_one_and_data_sets_without_such_images_are_refused(make_trainer, monkeypatch):
    trainer = make_trainer()
    with pytest.raises(UsageError, match="BATCH_SIZE 1"):
        cfg = trainer.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 1
        build_trainer(cfg)
    monkeypatch.delattr(FewShotDataset, "unlabelled")
    with pytest.raises(UsageError, match="EuroSAT: PromptKD learns from all training images"):
        trainer.train()
