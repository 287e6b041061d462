"""CLIP-LoRA against CLIP with the changes added to its weights."""

import math

import pytest
import torch
from test_contract import CLASSNAMES, method_cfg
from test_golden import golden_cfg

from clip.model import build_model
from common.errors import UsageError
from dassl.engine import SimpleTrainer, build_trainer
from trainers.base import ClassPrompts
from trainers.cliplora import CLIPLoRA
from trainers.zsclip import ZeroshotCLIP


@pytest.mark.parametrize(
    "changed", [{}, {"POSITION": "half-up", "PARAMS": ["v"]}, {"ENCODER": "vision", "R": 4}]
)
@torch.no_grad()
def test_answers_as_clip_with_changed_weights(changed, tiny_clip_state_dict, tiny_clip_path):
    cfg = method_cfg("CLIPLoRA", tiny_clip_path)
    for key, value in changed.items():
        cfg.TRAINER.CLIPLORA[key] = value
    settings = cfg.TRAINER.CLIPLORA
    prompts = ClassPrompts(CLIPLoRA.fixed_template(cfg), CLASSNAMES)
    torch.manual_seed(3)
    model = CLIPLoRA.build(cfg, build_model(tiny_clip_state_dict).eval(), prompts).eval()
    merged = build_model(tiny_clip_state_dict).eval()
    towers = {"text": merged.transformer, "vision": merged.visual.transformer}
    count = 0
    for name, tower in towers.items():
        for number, change in getattr(model.prompt_learner, name).items():
            change.b.normal_(std=0.02)
            weight = tower.resblocks[int(number)].attn.in_proj_weight
            for row, part in enumerate(settings.PARAMS):
                first = "qkv".index(part) * tower.width
                product = change.b[row] @ change.a[row] / math.sqrt(settings.R)
                weight[first : first + tower.width] += product
                count += 1
    towers_changed = 1 if settings.ENCODER != "both" else 2
    blocks = 6 if settings.POSITION == "half-up" else 12
    assert count == towers_changed * blocks * len(settings.PARAMS)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    expected = ZeroshotCLIP.build(cfg, merged, prompts).eval()(images)
    torch.testing.assert_close(model(images), expected, atol=1e-3, rtol=0)
    # The changes move answers by ten times what the two may differ by.
    untouched = ZeroshotCLIP.build(cfg, build_model(tiny_clip_state_dict).eval(), prompts)
    assert (untouched.eval()(images) - expected).abs().max() > 0.01


@pytest.mark.parametrize(
    ("words", "own", "expected"),
    [
        ("", "", "a centered satellite photo of {}."),
        ("a photo of a", "", "a photo of a {}."),
        ("a photo of a", "a map of {}", "a map of {}"),
    ],
)
def test_whose_words_stand_before_the_class_name(words, own, expected, tiny_clip_path):
    cfg = method_cfg("CLIPLoRA", tiny_clip_path)
    cfg.DATASET.NAME, cfg.DATASET.TEMPLATE = "EuroSAT", own
    cfg.TRAINER.CLIPLORA.CTX_INIT = words
    assert CLIPLoRA.fixed_template(cfg) == expected


def test_a_map_named_twice_is_refused(tiny_clip_path, fake_eurosat, tmp_path):
    cfg = golden_cfg({}, "CLIPLoRA", tiny_clip_path, fake_eurosat, tmp_path)
    cfg.TRAINER.CLIPLORA.PARAMS = ["q", "q"]
    with pytest.raises(UsageError, match="name each map once"):
        build_trainer(cfg)


@pytest.mark.parametrize(("shots", "steps_per_shot", "steps"), [(2, 3, 6), (1, 5, 5), (2, 0, 3)])
def test_an_epoch_has_as_many_steps_as_its_authors_have(
    shots, steps_per_shot, steps, tiny_clip_path, fake_eurosat, tmp_path
):
    cfg = golden_cfg({}, "CLIPLoRA", tiny_clip_path, fake_eurosat, tmp_path)
    cfg.DATASET.NUM_SHOTS = shots
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
    cfg.TRAINER.CLIPLORA.STEPS_PER_SHOT = steps_per_shot
    trainer = build_trainer(cfg)
    assert len(trainer.train_loader_x) == steps
    assert {len(batch["label"]) for batch in trainer.train_loader_x} == {4, 2 if shots == 2 else 1}


def test_a_dassl_whose_epochs_are_the_images_once_is_refused(
    tiny_clip_path, fake_eurosat, tmp_path, monkeypatch
):
    cfg = golden_cfg({}, "CLIPLoRA", tiny_clip_path, fake_eurosat, tmp_path)
    build = SimpleTrainer.build_data_loader

    def upstreams(self):
        with monkeypatch.context() as patch:
            patch.setattr(type(self), "steps_per_epoch", lambda self: 0)
            build(self)

    monkeypatch.setattr(SimpleTrainer, "build_data_loader", upstreams)
    with pytest.raises(UsageError, match=r"\(TRAINER.CLIPLORA\) ask for epochs of \d+ steps, but"):
        build_trainer(cfg)
    cfg.TRAINER.CLIPLORA.STEPS_PER_SHOT = 0
    assert len(build_trainer(cfg).train_loader_x) > 0
