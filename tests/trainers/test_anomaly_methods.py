"""PromptAD's and AnomalyAPT's losses written a second time, slowly, from their equations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_anomaly_contract import CLASSNAMES, cfg_of

import clip
from clip.model import build_model
from clip.text import encode_embeddings
from dassl.engine import TRAINER_REGISTRY
from trainers.anomaly import synthesis
from trainers.anomaly.words import (
    ANOMALOUS_STATES,
    NORMAL_STATES,
    TEMPLATES,
    state_features,
)
from trainers.base import ClassPrompts, TrainingBatch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clip_model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False).eval()


def build(name, clip_model, **changes):
    torch.manual_seed(3)
    cfg = cfg_of(name, DATASET__OBJECT_NAME="bolt", **changes)
    return TRAINER_REGISTRY.get(name).build(cfg, clip_model, ClassPrompts("{}", CLASSNAMES))


def encode(clip_model, context, words):
    """Features of "[V]...[V] words." with a context (n, D), one text alone."""
    text = " ".join(["X"] * len(context) + [f"{words}."])
    tokens = clip.tokenize(text)
    embeddings = clip_model.token_embedding(tokens).clone()
    embeddings[0, 1 : 1 + len(context)] = context
    return encode_embeddings(clip_model, embeddings, tokens.argmax(dim=-1))[0]


def batch_of(count=2):
    images = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    return TrainingBatch(images, torch.zeros(count).long(), torch.arange(count), epoch=3)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def test_promptad(clip_model):
    model = build("PromptAD", clip_model, TRAINER__ANOMALY__TEMPERATURE=0.0)
    with torch.no_grad():
        for parameter in model.prompt_learner.parameters():
            parameter.mul_(30)  # so that prompts differ
    batch = batch_of()
    model.prepare_support(batch.image, ["a", "b"])
    encoded = model.encode(batch.image)
    found = {name: float(term.detach()) for name, term in model.loss(batch).terms.items()}
    for where, part, features in (
        ("image", model.prompt_learner.image, encoded.image),
        ("patch", model.prompt_learner.patch, encoded.patches.flatten(0, 1)),
    ):
        normal = torch.stack([encode(clip_model, c, "bolt") for c in part.normal])
        manual = torch.stack(
            [encode(clip_model, c, s.format("bolt")) for c in part.normal for s in ANOMALOUS_STATES]
        )
        learned = torch.stack(
            [
                encode(clip_model, torch.cat([c, a]), "bolt")
                for c in part.normal
                for a in part.anomalous
            ]
        )
        anchor = unit(normal.mean(dim=0))
        opposite = unit(torch.cat([manual, learned]).mean(dim=0))
        scores = features @ torch.cat([anchor[None], unit(manual), unit(learned)]).t()
        chances = (clip_model.logit_scale.exp() * scores).softmax(dim=-1)
        triplet = [max(float((f - anchor).norm() - (f - opposite).norm()), 0) for f in features]
        match = (unit(manual).mean(dim=0) - unit(learned).mean(dim=0)).norm() ** 2
        assert found[f"{where}_ce"] == pytest.approx(float(-chances[:, 0].log().mean()), rel=1e-4)
        assert found[f"{where}_triplet"] == pytest.approx(float(np.mean(triplet)), abs=1e-5)
        assert found[f"{where}_match"] == pytest.approx(0.001 * float(match), rel=1e-4)


@pytest.mark.parametrize("mode", ["project", "sum", "none"])
def test_anomaly_apt(clip_model, mode):
    model = build("AnomalyAPT", clip_model, TRAINER__ANOMALYAPT__MODE=mode)
    batch = batch_of()
    keys = ["train/good/a.png", "train/good/b.png"]
    model.prepare_support(batch.image, keys)
    loss = model.loss(batch)
    learner = model.prompt_learner
    texts = torch.stack(
        [
            unit(torch.stack([unit(encode(clip_model, c, "bolt")) for c in side]).mean(dim=0))
            for side in (learner.normal, learner.anomalous)
        ]
    )
    # Copies of each image, from the same random numbers.
    mean, std = model.pixel_mean, model.pixel_std
    pixels = (batch.image * std + mean).clamp(0, 1).numpy()
    normal, made, regions = [], [], []
    for image, key, mask in zip(pixels, keys, model._objects, strict=True):
        normal.append(synthesis.augment(image, synthesis.generator(key, 3, 1, "augment")))
        rng = synthesis.generator(key, 3, 1, "anomaly")
        anomalous, where = synthesis.synthesise(image, mask, rng, ["noise"], (0.1, 0.6))
        made.append(anomalous)
        regions.append(where)
    copies = (torch.from_numpy(np.stack([*normal, *made])) - mean) / std
    encoded = model.encode(torch.cat([batch.image, copies]))
    labels = [0, 0, 0, 0, 1, 1]
    chances = (encoded.image @ texts.t() / 0.07).softmax(dim=-1)
    ce = -np.mean([float(c[y].log()) for c, y in zip(chances, labels, strict=True)])
    assert float(loss.terms["image"]) == pytest.approx(ce, rel=1e-4)

    scores = (encoded.patches @ texts.t() / 0.07).softmax(dim=-1)[..., 1]
    maps = F.interpolate(scores.unflatten(1, encoded.grid)[:, None], (64, 64), mode="bilinear")
    maps = maps[:, 0].double().detach().numpy()
    truth = np.concatenate([np.zeros((4, 64, 64)), np.stack(regions)])
    right = np.where(truth > 0, maps, 1 - maps)
    focal = np.mean(-((1 - right) ** 2) * np.log(right))

    def dice(p, m):
        return np.mean(
            [
                1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1)
                for a, b in zip(p, m, strict=True)
            ]
        )

    pixel = 4 * (focal + dice(maps, truth) + dice(1 - maps, 1 - truth))
    assert float(loss.terms["pixel"]) == pytest.approx(pixel, rel=1e-4)
    if mode == "none":
        assert "meta" not in loss.terms
        return
    anchor = state_features(clip_model, "bolt")
    aligned = (texts * anchor).sum(dim=-1)
    meta = float((1 - aligned).sum())
    meta += 0.5 * max(0.0, float(texts[0] @ texts[1] - anchor[0] @ anchor[1]))
    weight = 1.0 if mode == "project" else 0.1
    assert float(loss.terms["meta"]) == pytest.approx(weight * meta, rel=1e-4)


def test_meta_prompt_follows(clip_model):
    model = build("AnomalyAPT", clip_model)
    anchor, texts = model.anchor.clone(), model.text_features()
    model.follow()
    moved = unit(0.9 * anchor + 0.1 * texts)
    assert ((moved * anchor).sum(dim=-1) > 0.8).all()
    torch.testing.assert_close(model.prompt_learner.meta, moved)
    fixed = build("AnomalyAPT", clip_model, TRAINER__ANOMALYAPT__META="fixed")
    fixed.follow()
    assert torch.equal(fixed.prompt_learner.meta, anchor)


def test_words(clip_model):
    texts = [
        [template.format(state.format("bolt")) for state in states for template in TEMPLATES]
        for states in (NORMAL_STATES, ANOMALOUS_STATES)
    ]
    plain = [unit(unit(clip_model.encode_text(clip.tokenize(some))).mean(dim=0)) for some in texts]
    torch.testing.assert_close(state_features(clip_model, "bolt"), torch.stack(plain))
