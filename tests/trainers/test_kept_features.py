"""Kept image features: the same bits as without, found again, told apart, mended."""

import os
import shutil

import pytest
import torch
from test_golden import golden_cfg
from torchvision import transforms as T

from common.errors import UsageError
from common.store import feature_store
from dassl.engine import build_trainer
from trainers.kept_features import augmented_features
from trainers.model import TOGETHER, KnownFeatures

pytestmark = pytest.mark.slow

FROZEN = ["ZeroshotCLIP", "ZeroshotCLIP2", "CoOp", "CoCoOp", "KgCoOp", "ProGrad", "TCP"]


@pytest.fixture
def make_trainer(tiny_clip_path, fake_eurosat, tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path / "cache"))

    def make(name="CoOp", batch=30, data=fake_eurosat, **changes):
        cfg = golden_cfg({}, name, tiny_clip_path, data, tmp_path / "run")
        cfg.DATASET.NUM_SHOTS = 2
        cfg.DATALOADER.TEST.BATCH_SIZE = batch
        for key, value in changes.items():
            node, leaf = key.split("__")
            cfg[node][leaf] = value
        cfg.freeze()
        torch.manual_seed(1)
        return build_trainer(cfg)

    return make


def answers(trainer):
    """All test logits as a test makes them, labels and paths; how often the tower ran."""
    runs = []
    visual = trainer.model.clip.visual
    hook = visual.register_forward_hook(lambda module, args, out: runs.append(len(out)))
    trainer.set_model_mode("eval")
    found = []
    with torch.no_grad():
        for batch in trainer.test_batches(trainer.test_loader):
            image, label = trainer.parse_batch_test(batch)
            found.append((trainer.model_inference(image), label, batch["impath"], batch["index"]))
    hook.remove()
    logits, labels, paths, index = zip(*found, strict=True)
    paths = [path for some in paths for path in some]
    return torch.cat(logits), torch.cat(labels), paths, torch.cat(index), runs


def assert_same(one, other):
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert one[2] == other[2] and torch.equal(one[3], other[3])


@pytest.mark.parametrize("name", FROZEN)
def test_same_bits_with_and_without(name, make_trainer):
    plain = answers(make_trainer(name, TEST__KEEP_FEATURES=False))
    assert feature_store().figures()[0] == 0
    first = answers(make_trainer(name))
    again = answers(make_trainer(name))
    assert plain[4] == first[4] == [30, 20] and again[4] == []
    assert_same(plain, first)
    assert_same(plain, again)
    assert feature_store().figures()[0] == 2


def test_methods_share_them(make_trainer):
    first = answers(make_trainer("ZeroshotCLIP"))
    assert first[4] == [30, 20]
    assert [answers(make_trainer(name))[4] for name in FROZEN[1:]] == [[]] * 6


@pytest.mark.parametrize("name", ["MaPLe", "VPT", "MMRL", "CLIPLoRA", "CoPrompt", "MMA"])
def test_a_prompted_tower_never_answers_from_them(name, make_trainer):
    trainer = make_trainer(name)
    assert not trainer.model.is_image_tower_frozen
    assert trainer.test_batches(trainer.test_loader) is trainer.test_loader


def test_large_batches_are_made_of_the_same_pieces(make_trainer, monkeypatch):
    import trainers.kept_features
    import trainers.model

    for module in (trainers.kept_features, trainers.model):
        monkeypatch.setattr(module, "TOGETHER", 10)
    small = answers(make_trainer(batch=10))
    large = answers(make_trainer("TCP", batch=40))
    assert small[4] == [10] * 5 and large[4] == []
    plain = answers(make_trainer("TCP", batch=40, TEST__KEEP_FEATURES=False))
    assert plain[4] == [10] * 5
    assert_same(large, plain)
    assert TOGETHER == 100


def test_another_order_precision_transform_or_tower_is_another_key(make_trainer):
    answers(make_trainer())
    assert answers(make_trainer(batch=25))[4] == [25, 25]
    assert answers(make_trainer(INPUT__INTERPOLATION="bilinear"))[4] == [30, 20]
    trainer = make_trainer()
    with torch.no_grad():
        trainer.model.clip.visual.proj[0, 0] += 1e-6
    assert answers(trainer)[4] == [30, 20]
    trainer = make_trainer()
    trainer.model.clip.visual.transformer.heads = 1  # whatever it is: built otherwise
    assert answers(trainer)[4] == [30, 20]
    trainer = make_trainer()
    trainer.model.clip.visual.bfloat16()
    assert answers(make_trainer())[4] == []


def test_changed_and_missing_images_are_noticed(make_trainer, fake_eurosat, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(fake_eurosat, data)
    trainer = make_trainer(data=data)
    before = answers(trainer)
    paths = before[2]
    stamp = os.stat(paths[40])
    shutil.copy(paths[0], paths[40])
    os.utime(paths[40], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = answers(make_trainer(data=data))
    assert after[4] == [20]
    assert torch.equal(after[0][:30], before[0][:30])
    assert not torch.equal(after[0][40], before[0][40])
    with open(paths[3], "wb") as file:
        file.write(b"no image")
    with pytest.raises(UsageError, match="cannot be decoded"):
        answers(make_trainer(data=data))
    os.remove(paths[3])
    with pytest.raises(UsageError, match=f"image not found: {paths[3]}"):
        answers(trainer)


def test_damaged_pieces_are_made_anew(make_trainer, tmp_path):
    before = answers(make_trainer())
    for file in (tmp_path / "cache/features").glob("*.kept"):
        content = bytearray(file.read_bytes())
        content[-5] ^= 16
        file.write_bytes(content)
    mended = answers(make_trainer())
    assert mended[4] == [30, 20]
    assert_same(before, mended)
    assert answers(make_trainer())[4] == []


def test_a_limit_of_zero_keeps_nothing(make_trainer):
    feature_store().set_limit(0)
    first, second = answers(make_trainer()), answers(make_trainer())
    assert first[4] == second[4] == [30, 20]
    assert_same(first, second)


@pytest.mark.parametrize(
    "step",
    [
        lambda image: image,
        T.Lambda(str),
        T.RandomApply([T.Lambda(str)]),
        T.Compose([lambda image: image]),
        T.RandomPerspective(0.1),
        T.Normalize(torch.zeros(3), torch.ones(3)),
    ],
    ids=["function", "Lambda", "in RandomApply", "in Compose", "another kind", "tensors"],
)
def test_tests_with_steps_that_cannot_be_told_apart_read_pixels(make_trainer, step):
    trainer = make_trainer(TEST__KEEP_FEATURES=True)
    assert trainer.test_batches(trainer.test_loader) is not trainer.test_loader
    trainer.test_loader.dataset.transform.transforms.append(step)
    assert trainer.test_batches(trainer.test_loader) is trainer.test_loader


def test_settings_that_a_step_does_not_print_are_another_key(make_trainer):
    def shown(mode):
        trainer = make_trainer()
        steps = trainer.test_loader.dataset.transform.transforms
        steps.insert(0, T.RandomCrop(24, padding=4, padding_mode=mode))
        assert "padding_mode" not in repr(steps[0])
        torch.manual_seed(1)
        return answers(trainer)[4]

    assert shown("constant") == shown("reflect") == [30, 20]
    assert shown("constant") == []


def test_results_are_the_same(make_trainer, tmp_path):
    def tested(**changes):
        trainer = make_trainer("TCP", **changes)
        accuracy = trainer.test()
        return accuracy, (tmp_path / "run" / "predictions.npz").read_bytes()

    plain = tested(TEST__KEEP_FEATURES=False)
    assert tested() == tested() == plain


def test_views_are_seeded_and_kept(make_trainer):
    augmented = ("random_resized_crop", "random_flip", "normalize")

    def views(passes, seed, **changes):
        trainer = make_trainer(INPUT__TRANSFORMS=augmented, **changes)
        state = torch.get_rng_state()
        tower = trainer.frozen_tower(trainer.train_loader_x)
        features, labels = augmented_features(tower, trainer.train_loader_x, passes, seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert labels.tolist() == [i.label for i in trainer.dm.dataset.train_x]
        return features

    kept = views(3, 1)
    assert kept.shape == (3, 10, 64) and kept.dtype == torch.float32
    assert not torch.equal(kept[0], kept[1])
    count = feature_store().figures()[0]
    assert torch.equal(views(2, 1), kept[:2]) and feature_store().figures()[0] == count
    assert torch.equal(views(3, 1, TEST__KEEP_FEATURES=False), kept)
    assert not torch.equal(views(1, 2)[0], kept[0])


def test_known_features_stand_for_images(make_trainer):
    trainer = make_trainer()
    images = next(iter(trainer.test_loader))["img"]
    model = trainer.model.eval()
    with torch.no_grad():
        known = KnownFeatures(model.raw_image_features(images))
        assert len(known) == len(images) == 30 and len(known[:4]) == 4
        assert torch.equal(model(known), model(images))
