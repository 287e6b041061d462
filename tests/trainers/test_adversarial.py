"""Adversarial training: what is attacked, what is learned from, and what stays untouched."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_golden import golden_cfg

import clip
import trainers
from clip.model import build_model
from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY
from trainers.adversarial import TRADES_START, divergence
from trainers.base import ClassPrompts, TrainingBatch

CLASSNAMES = ["river", "annual crop land", "Sea_or_Lake"]
ADVERSARIAL = ["AdvCoOp", "AdvVPT", "AdvIVLP", "AdvMaPLe", "AdvANPrompt"]


@pytest.fixture(scope="module")
def clip_model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False).eval()


@pytest.fixture
def trainer_of(clip_model, tiny_clip_path):
    """A trainer without data: a model, and the settings that its loss reads."""

    def make(name, **settings):
        cls = TRAINER_REGISTRY.get(name)
        cfg = golden_cfg({}, name, tiny_clip_path, "", "")
        cfg.DATASET.SUBSAMPLE_CLASSES = "base"
        for key, value in settings.items():
            node = cfg.TRAINER[cls.attack_node]
            if key not in node:
                node = cls.settings_of(cfg)
            node[key] = value
        cls.check_cfg(cfg)
        torch.manual_seed(3)
        prompts = ClassPrompts(cls.fixed_template(cfg), CLASSNAMES)
        trainer = cls.__new__(cls)
        trainer.cfg, trainer.max_epoch = cfg, 4
        trainer.model = cls.build(cfg, clip_model, prompts)
        trainer.model.prepare_training()
        trainer.model.prompt_learner.train()
        torch.manual_seed(4)
        return trainer

    return make


@pytest.fixture
def batch():
    """Four images as the loader gives them: pixels from 0 to 1, normalised."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in PIXELS)
    pixels = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    return TrainingBatch((pixels - mean) / std, torch.tensor([0, 2, 1, 0]))


PIXELS = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def pixels_of(image):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in PIXELS)
    return image * std + mean


def loss_of(trainer, batch):
    torch.manual_seed(7)
    return trainer.loss(batch)


def same(loss, other, tolerance=0.0):
    assert loss.terms.keys() == other.terms.keys()
    torch.testing.assert_close(loss.total, other.total, atol=tolerance, rtol=0)
    torch.testing.assert_close(loss.logits, other.logits, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_clean_is_the_method_itself(name, trainer_of, batch):
    trainer = trainer_of(name, LOSS="clean")
    same(loss_of(trainer, batch), trainer.model.loss(batch))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_halves_and_whole_batches_are_attacked(name, trainer_of, batch):
    trainer, seen = trainer_of(name), []
    whole = trainer_of(name, LOSS="adv_full")
    for own in (trainer, whole):
        loss = own.model.loss
        own.model.loss = lambda given, loss=loss: seen.append(given.image) or loss(given)
        loss_of(own, batch)
    half, full = seen
    assert torch.equal(half[:2], batch.image[:2])
    before = pixels_of(batch.image)
    for changed, original in ((half[2:], before[2:]), (full, before)):
        moved = (pixels_of(changed) - original).abs()
        assert 0 < moved.max() <= 1 / 255 + 1e-6
        assert (moved > 0.9 / 255).float().mean() > 0.3  # most pixels are pushed to the edge
        assert pixels_of(changed).min() > -1e-6 and pixels_of(changed).max() < 1 + 1e-6


@pytest.mark.parametrize("name", [*ADVERSARIAL, "FAP", "NAPTuning"])
def test_attack_raises_the_loss_and_leaves_no_trace(name, trainer_of, batch):
    trainer = trainer_of(name, EPS=8.0, STEP=2.0, STEPS=3)
    model = trainer.model
    learner = model.prompt_learner
    before = copy.deepcopy(learner.state_dict())
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = model.class_state()
    changed = trainer.attack(batch.image, batch.label, state)
    with torch.no_grad():
        clean, worse = (
            F.cross_entropy(trainer.logits_of(x, state), batch.label)
            for x in (batch.image, changed)
        )
    assert worse > clean + 0.1
    assert learner.training and not changed.requires_grad
    for key, parameter in learner.named_parameters():
        assert parameter.requires_grad and torch.equal(parameter, before[key])
        assert torch.equal(parameter.grad, torch.ones_like(parameter))


def test_a_step_that_fails_leaves_the_learner_training(trainer_of, batch):
    trainer = trainer_of("AdvCoOp")
    trainer.attacked_logits = lambda image, state: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.loss(batch)
    learner = trainer.model.prompt_learner
    assert learner.training and all(p.requires_grad for p in learner.parameters())


def test_the_classes_are_computed_once_a_step(trainer_of, batch):
    for name in ("AdvMaPLe", "FAP", "NAPTuning"):
        trainer, calls = trainer_of(name), []
        once = trainer.model.text_features
        trainer.model.text_features = lambda once=once, calls=calls: calls.append(1) or once()
        trainer.loss(batch)
        assert len(calls) == 1


def test_trades_against_its_definition(trainer_of, batch):
    trainer = trainer_of("AdvMaPLe", LOSS="trades", BETA=3.0, STEPS=1)
    found = loss_of(trainer, batch)
    model = trainer.model.eval()
    torch.manual_seed(7)
    start = TRADES_START * torch.randn(batch.image.shape)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in PIXELS)
    clean = model(batch.image)
    x = (pixels_of(batch.image).clamp(0, 1) + start).clamp(0, 1).requires_grad_()
    divergence = F.kl_div(
        model((x - mean) / std).log_softmax(1), clean.detach().softmax(1), reduction="batchmean"
    )
    (gradient,) = torch.autograd.grad(divergence, x)
    moved = (x + gradient.sign() / 255 - pixels_of(batch.image)).clamp(-1 / 255, 1 / 255)
    attacked = model(((pixels_of(batch.image) + moved).clamp(0, 1) - mean) / std)
    kl = (clean.softmax(1) * (clean.log_softmax(1) - attacked.log_softmax(1))).sum(1).mean()
    expected = F.cross_entropy(clean, batch.label) + 3 * kl
    torch.testing.assert_close(found.total, expected, atol=2e-4, rtol=0)
    assert set(found.terms) == {"ce", "robust"} and found.terms["robust"] > 0


def test_images_that_are_not_normalised(trainer_of, batch):
    trainer = trainer_of("AdvCoOp", LOSS="adv_full")
    trainer.cfg.INPUT.TRANSFORMS = ()
    raw = TrainingBatch(pixels_of(batch.image).clamp(0, 1), batch.label)
    changed = trainer.attack(raw.image, raw.label, trainer.model.class_state())
    moved = (changed - raw.image).abs()
    assert 0 < moved.max() <= 1 / 255 + 1e-6
    assert changed.min() >= 0 and changed.max() <= 1


def test_no_bound_no_change(trainer_of, batch):
    for name in ("AdvCoOp", "AdvMaPLe"):
        trainer = trainer_of(name, EPS=0.0, LOSS="adv_full")
        same(loss_of(trainer, batch), trainer.model.loss(batch), tolerance=1e-4)


# FAP -------------------------------------------------------------------------------------------


def test_fap_ties_attacked_images_to_clean_ones_and_detaches_nothing(trainer_of, batch):
    trainer = trainer_of("FAP", LAMBDA=1.5)
    changed = {}
    attack = trainer.attack

    def kept(*args, **kwargs):
        changed["image"] = attack(*args, **kwargs)
        return changed["image"]

    trainer.attack = kept
    found = loss_of(trainer, batch)
    model, t = trainer.model, trainer.model.text_features()
    f, f_adv = (model.image_features(x) for x in (batch.image, changed["image"]))
    z, z_adv = (model.scale * x @ t.t() for x in (f, f_adv))
    p = z.softmax(1)
    total = F.cross_entropy(z, batch.label)
    for i in range(len(z)):
        kl = (p[i] * (p[i].log() - z_adv[i].log_softmax(0))).sum()
        total = total + 1.5 / len(z) * kl * ((f[i] * f_adv[i]).sum() + 1)
    torch.testing.assert_close(found.total, total, atol=1e-5, rtol=1e-5)
    parameters = list(model.prompt_learner.parameters())
    for own, expected in zip(
        torch.autograd.grad(found.total, parameters),
        torch.autograd.grad(total, parameters),
        strict=True,
    ):
        torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-3)


def test_faps_words_are_the_template_braces_and_all(trainer_of):
    model = trainer_of("FAP").model
    learner = model.prompt_learner
    texts = [
        f"a centered satellite photo of {{}}. {name.replace('_', ' ')}." for name in CLASSNAMES
    ]
    tokens = clip.tokenize(texts)
    assert torch.equal(learner.prompts.tokens, tokens[:, : learner.prompts.tokens.shape[1]])
    assert torch.equal(learner.ctx, model.clip.token_embedding(tokens[0, 1:3]))
    with pytest.raises(UsageError, match="START 'zero'.*choose uniform"):
        trainer_of("FAP", START="zero")


def test_fap_can_start_at_the_phrase(trainer_of, batch):
    trainer = trainer_of("FAP", WORDS="phrase", LOSS="adv_full", START="zero")
    assert trainer.model.prompts.template == "of a {}"
    assert trainer.loss(batch).terms.keys() == {"ce"}


# NAPTuning: what a reconstruction must fulfil; (e), that attacks leave no trace, is above ------


def twins(trainer_of, **settings):
    """NAPTuning and AdvMaPLe with the same prompts and the same attack."""
    attack = {"EPS": 4.0, "STEP": 1.2, "STEPS": 2, "START": "zero"}
    nap = trainer_of("NAPTuning", N_CTX=2, PROMPT_DEPTH=12, **attack, **settings)
    maple = trainer_of("AdvMaPLe", N_CTX=2, PROMPT_DEPTH=12, LOSS="adv_full", **attack)
    own = nap.model.prompt_learner.state_dict()
    maple.model.prompt_learner.load_state_dict(
        {key: own[key] for key in maple.model.prompt_learner.state_dict()}
    )
    return nap, maple


@pytest.mark.parametrize("text_tokens", ["suffix", "sos", "all", "none"])
def test_a_refiners_at_zero_are_adversarial_maple(text_tokens, trainer_of, batch):
    nap, maple = twins(trainer_of, TEXT_TOKENS=text_tokens, LOSS="half")
    with torch.no_grad():
        for own, other in ((nap, maple), (maple, nap)):
            torch.testing.assert_close(
                own.model(batch.image), other.model(batch.image), atol=1e-5, rtol=0
            )
    adversarial, clean = maple.loss(batch).total, maple.model.loss(batch).total
    torch.testing.assert_close(nap.loss(batch).total, (adversarial + clean) / 2, atol=1e-5, rtol=0)


def test_default_refiners_start_elsewhere(trainer_of, batch):
    nap, maple = twins(trainer_of, REFINER_INIT="default")
    assert (nap.model(batch.image) - maple.model(batch.image)).abs().max() > 0.01


def described_logits(model, image):
    """Logits written down from the author's file's description: vision refiners, plain text."""
    clip_model, learner = model.clip, model.prompt_learner
    n = len(learner.ctx)
    prompts = learner.prompts.embeddings  # (C, L, D)
    x = torch.cat([prompts[:, :1], learner.ctx.expand(len(prompts), -1, -1)], dim=1)
    x = torch.cat([x, prompts[:, 1 + n :]], dim=1)
    x = (x + clip_model.positional_embedding[: x.shape[1]]).transpose(0, 1)  # (L, C, D)
    for layer, block in enumerate(clip_model.transformer.resblocks):
        if layer:
            deep = learner.compound_prompts_text[layer - 1].unsqueeze(1).expand(-1, x.shape[1], -1)
            x = torch.cat([x[:1], deep, x[1 + n :]])
        x = block(x)
    x = clip_model.ln_final(x.transpose(0, 1))
    t = x[torch.arange(len(x)), learner.prompts.eot] @ clip_model.text_projection
    visual = clip_model.visual
    v = visual.embed(image)
    v = torch.cat([v, learner.proj(learner.ctx).expand(len(v), -1, -1)], dim=1)
    v = visual.ln_pre(v).transpose(0, 1)
    for layer, block in enumerate(visual.transformer.resblocks):
        if layer:
            own = v[:-n]
            refiner = learner.vision_refiners[str(layer)]
            hidden = (own @ refiner.up.weight.t() + refiner.up.bias).clamp(min=0)
            own = own + hidden @ refiner.down.weight.t() + refiner.down.bias
            maps = learner.compound_prompt_projections[layer - 1]
            deep = maps(learner.compound_prompts_text[layer - 1])
            v = torch.cat([own, deep.unsqueeze(1).expand(-1, v.shape[1], -1)])
        v = block(v)
    f = visual.ln_post(v[0]) @ visual.proj
    f, t = F.normalize(f, dim=-1), F.normalize(t, dim=-1)
    return clip_model.logit_scale.exp() * f @ t.t()


@pytest.mark.slow
def test_b_ten_steps_as_the_authors_file_is_described(trainer_of, batch):
    settings = {"TEXT_TOKENS": "none", "REFINER_INIT": "default", "LOSS": "half", "N_CTX": 2}
    nap = trainer_of("NAPTuning", EPS=1.0, STEPS=2, **settings)
    other = trainer_of("NAPTuning", EPS=1.0, STEPS=2, **settings).model
    other.prompt_learner.load_state_dict(nap.model.prompt_learner.state_dict())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in PIXELS)
    optimizers = [
        torch.optim.AdamW(model.prompt_learner.parameters(), lr=1e-4)
        for model in (nap.model, other)
    ]
    for _ in range(10):
        loss = nap.loss(batch).total
        pixels = pixels_of(batch.image).clamp(0, 1)
        x = pixels.clone()
        for _ in range(2):
            x.requires_grad_()
            attacked = F.cross_entropy(described_logits(other, (x - mean) / std), batch.label)
            (gradient,) = torch.autograd.grad(attacked, x)
            moved = (x.detach() + 0.75 / 255 * gradient.sign() - pixels).clamp(-1 / 255, 1 / 255)
            x = (pixels + moved).clamp(0, 1)
        expected = 0.5 * F.cross_entropy(described_logits(other, batch.image), batch.label)
        expected = expected + 0.5 * F.cross_entropy(
            described_logits(other, (x - mean) / std), batch.label
        )
        torch.testing.assert_close(loss, expected, atol=2e-3, rtol=0)
        for optimizer, own in zip(optimizers, (loss, expected), strict=True):
            optimizer.zero_grad()
            own.backward()
            optimizer.step()


def test_c_no_refiner_in_block_0_and_none_that_is_not_called(trainer_of, batch):
    for text_tokens, blocks in (("suffix", range(1, 4)), ("none", ())):
        trainer = trainer_of("NAPTuning", N_CTX=2, PROMPT_DEPTH=4, TEXT_TOKENS=text_tokens)
        learner = trainer.model.prompt_learner
        assert list(learner.vision_refiners) == ["1", "2", "3"]
        assert list(learner.text_refiners) == [str(block) for block in blocks]
        trainer.loss(TrainingBatch(batch.image, batch.label, epoch=2)).total.backward()
        assert all(parameter.grad is not None for parameter in learner.parameters())


def test_d_the_feature_term_has_gradients_on_both_sides(trainer_of, batch):
    trainer = trainer_of("NAPTuning", N_CTX=2)
    model = trainer.model
    changed = trainer.attack(batch.image, batch.label, model.class_state())
    sides = [model.image_blocks(x)[1] for x in (batch.image, changed)]
    assert [len(side) for side in sides] == [12, 12]
    for side in sides:
        for features in side:
            features.retain_grad()
    distance = trainers.naptuning.feature_distance(*sides)
    slow = sum(
        1 - torch.stack([F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in pair])
        .mean()
        for pair in (list(zip(*own, strict=True)) for own in zip(*sides, strict=True))
    )  # fmt: skip
    torch.testing.assert_close(distance, slow, atol=1e-5, rtol=1e-4)
    distance.backward()
    assert all(features.grad.abs().sum() > 0 for side in sides for features in side)


def test_f_no_bound_no_distance(trainer_of, batch):
    trainer = trainer_of("NAPTuning", N_CTX=2, EPS=0.0, REFINER_INIT="default")
    loss = trainer.loss(TrainingBatch(batch.image, batch.label, epoch=2))
    assert set(loss.terms) == {"ce", "ce_adv", "feature"}
    torch.testing.assert_close(loss.terms["ce"], loss.terms["ce_adv"], atol=1e-4, rtol=0)
    assert abs(float(loss.terms["feature"].detach())) < 1e-4


def test_weights_follow_the_epoch(trainer_of):
    assert trainer_of("NAPTuning").weights(0) == (1.0, 0.0, 0.0)
    assert trainer_of("NAPTuning").weights(3) == (0.25, 0.75, 0.75)
    assert trainer_of("NAPTuning", FEATURE=False).weights(3) == (0.25, 0.75, 0.0)
    assert trainer_of("NAPTuning", LOSS="half+0.1C").weights(3) == (0.5, 0.5, 0.1)


def test_refined_text_is_what_running_every_text_in_full_gives(trainer_of):
    trainer = trainer_of("NAPTuning", N_CTX=2, TEXT_TOKENS="all", REFINER_INIT="default")
    clip_model, learner = trainer.model.clip, trainer.model.prompt_learner
    x = learner.prompts.embeddings.clone()
    x[:, 1:3] = learner.ctx
    x = x + clip_model.positional_embedding[: x.shape[1]]
    for layer, block in enumerate(clip_model.transformer.resblocks):
        if layer:
            x = learner.text_refiners[str(layer)](x)
            x[:, 1:3] = learner.compound_prompts_text[layer - 1]
        x = block(x.transpose(0, 1)).transpose(0, 1)
    x = clip_model.ln_final(x)[torch.arange(3), learner.prompts.eot] @ clip_model.text_projection
    torch.testing.assert_close(trainer.model.raw_text_features(), x, atol=1e-4, rtol=1e-4)


def test_prompts_of_their_own_and_the_frozen_surrogate(trainer_of, batch):
    trainer = trainer_of("NAPTuning", N_CTX=2, PROMPTS="independent", SURROGATE="clip")
    learner = trainer.model.prompt_learner
    assert [tuple(p.shape) for p in learner.vision_ctx] == [(2, 128)] * 12
    assert not any("proj" in name for name, _ in learner.named_parameters())
    prompts = ClassPrompts("a photo of a {}.", CLASSNAMES)
    features = trainers.base.encode_prompts(trainer.model.clip, prompts)
    trainer.frozen_text = F.normalize(features, dim=-1)
    image = batch.image.clone().requires_grad_()
    cosines = trainer.attacked_logits(image, None)
    assert cosines.abs().max() <= 1 + 1e-5
    assert trainer.loss(batch).total.isfinite()


def test_divergence_is_kl():
    z, clean = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    p = clean.softmax(1)
    expected = (p * (p / z.softmax(1)).log()).sum(1)
    torch.testing.assert_close(divergence(z, clean), expected)
