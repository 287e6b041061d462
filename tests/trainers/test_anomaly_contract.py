"""What every registered method for anomaly detection must do; a new one is tested for free."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from inputs import check_resuming
from PIL import Image

import trainers  # noqa: F401  (registers them)
from anprompt.protocols.methods import all_methods
from anprompt.runs.config import default_cfg
from anprompt.runs.trained import trained_from
from clip.model import build_model
from clip.patches import patch_tokens
from common.errors import UsageError
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, build_trainer
from datasets import defect_tiles
from trainers.anomaly.model import FUSIONS
from trainers.base import ClassPrompts, TrainingBatch, load_learned

pytestmark = pytest.mark.slow

NAMES = sorted(
    name
    for name in TRAINER_REGISTRY.registered_names()
    if TRAINER_REGISTRY.get(name).task == "anomaly"
)
LEARNING = [name for name in NAMES if TRAINER_REGISTRY.get(name).learns]
CLASSNAMES = ["normal", "anomalous"]


@pytest.fixture(scope="module")
def clip_model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiles")
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("TRAIN", 3), ("TEST_GOOD", 2), ("TEST_DEFECT", 1)):
            patch.setattr(defect_tiles, name, count)
        defect_tiles.ensure_drawn(root)
    return root


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def cfg_of(name, tiles="", clip_path="", output="", **changes):
    cfg = default_cfg(name)
    cfg.TRAINER.NAME, cfg.SEED, cfg.OUTPUT_DIR = name, 1, str(output)
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATASET.CATEGORY = "DefectTiles", str(tiles), "wood"
    cfg.DATASET.NUM_SHOTS = 2
    cfg.MODEL.BACKBONE.NAME = str(clip_path)
    cfg.INPUT.SIZE, cfg.INPUT.TRANSFORMS = (64, 64), ["normalize"]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH = "sgd", 0.01, 2
    cfg.TRAINER.ANOMALY.MAP_SIZE = 50
    if name == "PromptAD":  # fewer texts: it is not the numbers that are tested
        cfg.TRAINER.PROMPTAD.N_PRO = cfg.TRAINER.PROMPTAD.N_PRO_AB = 1
    for key, value in changes.items():
        *nodes, leaf = key.split("__")
        place = cfg
        for node in nodes:
            place = place[node]
        place[leaf] = value
    return cfg


@pytest.fixture
def make_trainer(tiles, tiny_clip_path, tmp_path):
    def make(name, folder="run", **changes):
        cfg = cfg_of(name, tiles, tiny_clip_path, tmp_path / folder, **changes)
        cfg.freeze()
        torch.manual_seed(1)
        return build_trainer(cfg)

    return make


@pytest.fixture(scope="module")
def built(clip_model):
    made = {}

    def make(name):
        if name not in made:
            torch.manual_seed(2)
            made[name] = trained_from(cfg_of(name), CLASSNAMES, clip_model, {}).model
        return made[name]

    return make


def answers(model, images):
    return model.scores(model.encode(images), model.class_state())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_answers_are_scores_and_maps(name, built, images):
    model = built(name)
    assert set(model.rules) <= set(FUSIONS) and model.rule in model.rules
    assert TRAINER_REGISTRY.get(name).learns == bool(list(model.prompt_learner.parameters()))
    assert not any(p.requires_grad for p in model.clip.parameters())
    if model.needs_memory:
        model.bank = []
        with pytest.raises(ValueError, match="memory is empty"):
            answers(model, images)
        model.remember(images[:1])
    for answer in answers(model, images).values():
        assert answer.image.shape == (3,) and answer.grid.shape[0] == 3
        for scores in (answer.image, answer.grid):
            assert ((scores >= 0) & (scores <= 1)).all()
    found = model.classify(model.encode(images), model.class_state())
    torch.testing.assert_close(
        found[model.rule].softmax(dim=-1)[:, 1],
        answers(model, images)[model.rule].image,
        atol=1e-6, rtol=0,
    )  # fmt: skip


@torch.no_grad()
def test_memory_is_the_nearest_normal_patch(built, images, monkeypatch):
    model = built("AnomalyMemory")
    model.remember(images[:2])
    encoded = model.encode(images)
    plain = []
    for patches, layer in zip(encoded.layers, model.settings.LAYERS, strict=True):
        normal = torch.cat(
            [
                F.normalize(
                    patch_tokens(model.clip.visual, turned, [layer]).layers[layer], dim=-1
                ).flatten(0, 1)
                for turn in range(4)
                for turned in [torch.rot90(images[:2], turn, (2, 3))]
            ]
        )
        plain.append(torch.cdist(patches, normal).amin(dim=-1) ** 2 / 4)  # (1 - cos) / 2
    expected = torch.stack(plain).mean(dim=0)
    torch.testing.assert_close(model.memory_scores(encoded), expected, atol=1e-5, rtol=1e-3)
    monkeypatch.setattr("trainers.anomaly.model.PAIRS_AT_ONCE", 500)
    torch.testing.assert_close(model.memory_scores(encoded), expected, atol=1e-5, rtol=1e-3)
    assert expected[2].max() > 10 * expected[:2].max()  # the third image is not remembered


@pytest.mark.parametrize("name", NAMES)
def test_bf16_runs_on_cpu(name, make_trainer):
    trainer = make_trainer(name, OPTIM__MAX_EPOCH=1, TRAINER__ANOMALY__PREC="bf16")
    trainer.train()
    assert trainer.model.clip.dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_its_folder_says_the_same_task(name):
    method = next(method for method in all_methods("anomaly") if method.trainer == name)
    assert method.learns == TRAINER_REGISTRY.get(name).learns
    assert name not in {method.trainer for method in all_methods()}


@pytest.mark.parametrize("name", LEARNING)
def test_terms_add_up_to_the_loss(name, built, images):
    model = copy.deepcopy(built(name)).train()
    state = torch.get_rng_state()
    model.prepare_support(images, ["a", "b", "c"])
    loss = model.loss(TrainingBatch(images, torch.zeros(3).long(), torch.tensor([0, 1, 2])))
    assert torch.equal(torch.get_rng_state(), state), "a resumed run would draw other numbers"
    assert loss.total.dim() == 0 and loss.total.requires_grad and loss.logits.shape == (3, 2)
    torch.testing.assert_close(sum(loss.terms.values()), loss.total)
    again = model.loss(TrainingBatch(images, torch.zeros(3).long(), torch.tensor([0, 1, 2])))
    assert torch.equal(loss.total, again.total)


@pytest.mark.parametrize("name", LEARNING)
def test_only_the_learner_changes(name, make_trainer):
    trainer = make_trainer(name)
    before = {key: x.clone() for key, x in trainer.model.clip.state_dict().items()}
    learned = copy.deepcopy(list(trainer.model.prompt_learner.parameters()))
    trainer.train()
    for key, value in trainer.model.clip.state_dict().items():
        assert torch.equal(value, before[key]), key
    for old, new in zip(learned, trainer.model.prompt_learner.parameters(), strict=True):
        assert new.dtype == torch.float32 and not torch.equal(old, new)


@pytest.mark.parametrize("name", LEARNING)
def test_interrupted_and_resumed_equals_undisturbed(name, make_trainer, tmp_path):
    check_resuming(make_trainer, name)
    figures = [
        json.loads((tmp_path / folder / "results.json").read_text())
        for folder in ("whole", "parts")
    ]
    assert figures[0]["image_auroc"] == figures[1]["image_auroc"]
    assert figures[0]["rules"] == figures[1]["rules"]


@pytest.mark.parametrize("name", LEARNING)
def test_saved_and_reloaded_gives_the_same_answers(name, make_trainer, images, tmp_path):
    trained = make_trainer(name, OPTIM__MAX_EPOCH=1)
    trained.train()
    model = trained.model.eval()
    expected = answers(model, images)[model.rule]
    fresh = make_trainer(name, "fresh")
    fresh.load_model(str(tmp_path / "run"), epoch=1)
    fresh.model.eval().remember(trained._support()[0])
    found = answers(fresh.model, images)[model.rule]
    assert torch.equal(found.image, expected.image) and torch.equal(found.grid, expected.grid)


@pytest.mark.parametrize("name", NAMES)
def test_train_ends_in_results(name, make_trainer, tmp_path):
    trainer = make_trainer(name, OPTIM__MAX_EPOCH=1)
    trainer.train()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["task"] == "anomaly" and results["category"] == "wood"
    assert results["num_test"] == 5 and set(results["per_defect"]) == {"hole", "scratch", "stain"}
    for metric in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"):
        assert 0 <= results[metric] <= 100
        for figures in results["rules"].values():
            assert 0 <= figures[metric] <= 100
    if results["rules"]:
        assert results["rules"][results["headline_rule"]]["aupro"] == results["aupro"]
    with np.load(tmp_path / "run" / "anomaly.npz", allow_pickle=False) as kept:
        assert kept["scores_0"].shape == (5,) and kept["grid_0"].shape[0] == 5
        assert kept["curve_0"].shape[0] == 3
        assert sorted(kept["labels"].tolist()) == [0, 0, 1, 1, 1]
        assert len(kept["cases"]) >= 3 and kept["picture_0"].dtype == np.uint8


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_of_images(name, make_trainer):
    trainer = make_trainer(name, INPUT__SIZE=(96, 96), OPTIM__MAX_EPOCH=1)
    trainer.train()
    with pytest.raises(UsageError, match="multiples"):
        make_trainer(name, "other", INPUT__SIZE=(65, 64))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"TEST__FINAL_MODEL": "best_val"}, "no images to validate on"),
        ({"DATASET__SUBSAMPLE_CLASSES": "base"}, "no base and new classes"),
        ({"TRAINER__ANOMALY__LAYERS": [2, 40]}, "blocks 0 to 11"),
        ({"DATASET__NAME": "Shapes"}, "is for anomaly detection, data set Shapes for classif"),
        ({"DATASET__CATEGORY": ""}, "name one with DATASET.CATEGORY"),
    ],
)
def test_settings_that_cannot_be(changes, words, make_trainer):
    with pytest.raises(UsageError, match=words):
        make_trainer("AnomalyMemory", **changes)


def test_a_classifier_refuses_these_data(make_trainer, tiles, tiny_clip_path):
    cfg = default_cfg("CoOp")
    cfg.TRAINER.NAME, cfg.DATASET.NAME = "CoOp", "DefectTiles"
    with pytest.raises(UsageError, match="CoOp is for classification, data set DefectTiles for"):
        build_trainer(cfg)


def test_grey_and_deep_images_are_read_as_they_look(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    folder = tmp_path / "train" / "good"
    folder.mkdir(parents=True)
    Image.fromarray(values).save(folder / "0.png")
    Image.fromarray(values.astype(np.uint16) * 257).save(folder / "1.png")
    for place in ("good", "bad"):
        (tmp_path / "test" / place).mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "test" / place / "0.png")
    cfg = cfg_of("AnomalyMemory", DATASET__NAME="AnomalyFolder", DATASET__CATEGORY="")
    cfg.DATASET.IMAGE_DIR, cfg.DATASET.NUM_SHOTS = str(tmp_path), -1
    dataset = DATASET_REGISTRY.get("AnomalyFolder")(cfg)
    images, keys = TRAINER_REGISTRY.get("AnomalyMemory").support_of(cfg, dataset)
    assert keys == ["train/good/0.png", "train/good/1.png"]
    assert torch.equal(images[0], images[1])


def test_without_masks_images_alone_are_measured(tiles, tiny_clip_path, tmp_path):
    shutil.copytree(tiles / "defect_tiles" / "wood", tmp_path / "wood")
    shutil.rmtree(tmp_path / "wood" / "ground_truth")
    cfg = cfg_of("AnomalyFusion", "", tiny_clip_path, tmp_path / "run")
    cfg.DATASET.NAME, cfg.DATASET.IMAGE_DIR = "AnomalyFolder", str(tmp_path / "wood")
    cfg.DATASET.CATEGORY = ""
    build_trainer(cfg).train()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "image_auroc" in results and "pixel_auroc" not in results
    assert "aupro" not in results["rules"]["memory"]


@pytest.mark.parametrize("name", LEARNING)
def test_damaged_tensors_are_refused(name, built):
    model = built(name)
    state = {key: x.clone() for key, x in model.prompt_learner.state_dict().items()}
    next(iter(state.values())).view(-1)[0] = float("nan")
    with pytest.raises(UsageError, match="not finite"):
        load_learned(model, {"state_dict": state, "meta": {}})


@pytest.mark.parametrize("name", NAMES)
def test_a_name_beyond_what_clip_reads_is_one_line(name, clip_model):
    cfg = cfg_of(name, DATASET__OBJECT_NAME="a very long description of it " * 20)
    prompts = ClassPrompts("{}", CLASSNAMES)
    with pytest.raises(UsageError, match="CLIP reads 77"):
        TRAINER_REGISTRY.get(name).build(cfg, clip_model, prompts)
