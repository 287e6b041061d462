"""ANPrompt's equations against slow references, and its ties to MMRL."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import clip
from anprompt.runs.config import default_cfg
from clip.edits import insert_tokens, replace_tokens
from clip.model import build_model
from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY
from trainers.anprompt import (
    AntiNoiseCLIP,
    AntiNoisePromptLearner,
    cluster_noise_prompts,
    noisy_text_features,
    wa_loss,
)
from trainers.base import ClassPrompts, TrainingBatch
from trainers.mmrl import MMRLCLIP, InferenceRule, mmrl_loss

CLASSNAMES = ["cat", "polar bear", "dog", "big red fire engine", "tree", "house"]
TEMPLATE = "a photo of a {}."
PROMPTS = ClassPrompts(TEMPLATE, CLASSNAMES)


@pytest.fixture(scope="module")
def clip_model(tiny_clip_state_dict):
    state_dict = dict(tiny_clip_state_dict, logit_scale=torch.tensor(math.log(100.0)))
    return build_model(state_dict).requires_grad_(False)


def anprompt_settings(**changes):
    node = default_cfg().TRAINER.ANPROMPT
    for key, value in changes.items():
        *sections, name = key.split("__")
        target = node
        for section in sections:
            target = target[section]
        target[name] = value
    return node


def anprompt(clip_model, rule="mix", **changes) -> AntiNoiseCLIP:
    node = anprompt_settings(**changes)
    torch.manual_seed(0)
    learner = AntiNoisePromptLearner(clip_model, node)
    return AntiNoiseCLIP(
        clip_model, learner, PROMPTS, settings=node, sim_weight=0.5, inference=always(rule)
    )


def always(rule) -> InferenceRule:
    return InferenceRule(setting=rule, task="B2N", subset="base", dataset="EuroSAT")


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(4, 3, 64, 64, generator=generator)
    return TrainingBatch(image, torch.tensor([0, 5, 2, 1]))


# Losses ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(2, 5), classes=st.integers(2, 6), seed=st.integers(0, 999))
def test_wa_loss_is_the_equation(batch, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    z_noisy = 5 * torch.randn(batch, classes, generator=generator)
    z = 5 * torch.randn(batch, classes, generator=generator)
    divergence = 0.0
    for b in range(batch):
        p = [math.exp(v) for v in z_noisy[b].tolist()]
        q = [math.exp(v) for v in z[b].tolist()]
        for c in range(classes):
            p_c, q_c = p[c] / sum(p), q[c] / sum(q)
            divergence += p_c * (math.log(p_c) - math.log(q_c))
    values = z.flatten().tolist()
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    expected = divergence / ((std + 1e-6) * batch * classes)
    assert float(wa_loss(z_noisy=z_noisy, z=z)) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_wa_loss_of_half_precision_logits():
    """std(z) B C of a large batch does not fit into fp16, as logits are under amp."""
    generator = torch.Generator().manual_seed(0)
    z, z_noisy = (3 * torch.randn(32, 1000, generator=generator) for _ in range(2))
    halves = [x.half().requires_grad_() for x in (z_noisy, z)]
    loss = wa_loss(z_noisy=halves[0], z=halves[1])
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(wa_loss(z_noisy=z_noisy, z=z)), rel=1e-2)
    loss.backward()
    assert halves[0].grad.any()


def test_wa_loss_is_zero_for_equal_predictions_only():
    z = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])
    assert float(wa_loss(z_noisy=z, z=z)) == pytest.approx(0, abs=1e-7)
    assert float(wa_loss(z_noisy=z + 7, z=z)) == pytest.approx(
        0, abs=1e-6
    )  # softmax ignores a shift
    assert float(wa_loss(z_noisy=z.flip(1), z=z)) > 0.1


def test_mmrl_loss_is_the_equation():
    generator = torch.Generator().manual_seed(0)
    z, z_rep = torch.randn(2, 3, 4, generator=generator)
    f, f0 = F.normalize(torch.randn(2, 3, 8, generator=generator), dim=-1)
    s, t = F.normalize(torch.randn(2, 4, 8, generator=generator), dim=-1)
    label = [1, 3, 0]

    def cross_entropy(logits):
        total = 0.0
        for row, y in zip(logits.tolist(), label, strict=True):
            total += math.log(sum(math.exp(v) for v in row)) - row[y]
        return total / len(label)

    image_tie = 1 - sum(float(f[b] @ f0[b]) for b in range(3)) / 3
    text_tie = 1 - sum(float(s[c] @ t[c]) for c in range(4)) / 4
    expected = 0.7 * cross_entropy(z) + 0.3 * cross_entropy(z_rep) + 2.0 * (image_tie + text_tie)
    terms = mmrl_loss(
        z=z,
        z_rep=z_rep,
        label=torch.tensor(label),
        f=f,
        f_frozen=f0,
        s=s,
        s_frozen=t,
        alpha=0.7,
        reg_weight=2.0,
    )
    assert float(sum(terms.values())) == pytest.approx(expected, rel=1e-5)
    assert float(terms["sim"]) == pytest.approx(2.0 * (image_tie + text_tie), rel=1e-5)


# Noise prompts ---------------------------------------------------------------------------------


def test_noisy_text_features_are_the_equation(clip_model):
    kinds, rate, samples, seed, weight = ["char", "template"], 0.5, 4, 3, 0.25
    tokens = clip.tokenize([TEMPLATE.format(name) for name in CLASSNAMES])
    t = F.normalize(clip_model.encode_text(tokens), dim=-1)
    how = {"weight": weight, "kinds": kinds, "rate": rate, "samples": samples, "seed": seed}
    w = noisy_text_features(clip_model, PROMPTS, t, **how)
    from datasets.templates import IMAGENET_TEMPLATES
    from noise.text import perturbed_texts

    texts = perturbed_texts(
        CLASSNAMES, TEMPLATE, kinds, rate, samples, seed, templates=IMAGENET_TEMPLATES
    )
    for c, of_class in enumerate(texts):
        encoded = [clip_model.encode_text(clip.tokenize(text))[0] for text in of_class]
        mean = sum(x / x.norm() for x in encoded) / samples
        fused = (1 - weight) * t[c] + weight * mean / mean.norm()
        torch.testing.assert_close(w[c], fused / fused.norm(), atol=1e-5, rtol=1e-5)


def test_noise_of_a_class_does_not_depend_on_the_others(clip_model):
    t = F.normalize(torch.randn(6, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    how = {"weight": 0.5, "kinds": ["char", "embed"], "rate": 0.5, "samples": 4, "seed": 1}
    everybody = noisy_text_features(clip_model, PROMPTS, t, **how)
    alone = ClassPrompts(TEMPLATE, CLASSNAMES[2:3])
    alone = noisy_text_features(clip_model, alone, t[2:3], **how)
    torch.testing.assert_close(everybody[2:3], alone, atol=1e-5, rtol=1e-5)


def test_noise_weight_zero_is_the_clean_text(clip_model):
    t = torch.eye(6, 64)
    how = {"weight": 0.0, "kinds": ["char"], "rate": 0.5, "samples": 4, "seed": 1}
    assert torch.equal(noisy_text_features(clip_model, PROMPTS, t, **how), t)


@pytest.mark.parametrize("classes", [2, 5, 9])
def test_noise_prompts_are_normalised_distinct_and_repeatable(classes):
    w = F.normalize(torch.randn(classes, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    n = cluster_noise_prompts(w, 5)
    assert n.shape == (5, 16)
    torch.testing.assert_close(n.norm(dim=-1), torch.ones(5))
    assert len(torch.unique(n, dim=0)) == 5
    assert torch.equal(n, cluster_noise_prompts(w, 5))
    if classes < 5:  # every class is a centroid, some with a jittered double
        assert (n @ w.t()).max(dim=0).values.min() > 0.999


def test_as_many_classes_as_tokens_makes_every_class_a_centroid():
    w = F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(
        (cluster_noise_prompts(w, 5) @ w.t()).max(dim=0).values, torch.ones(5)
    )


def test_identical_class_features_still_give_distinct_prompts():
    w = F.normalize(torch.ones(4, 16), dim=-1)
    assert len(torch.unique(cluster_noise_prompts(w, 5), dim=0)) == 5


def test_prompts_are_learned_tokens_plus_noise(clip_model):
    model = anprompt(clip_model)
    model.prepare_training()
    learner = model.prompt_learner
    assert torch.equal(learner.shared_tokens(), learner.tokens + learner.noise_prompts)
    assert torch.equal(learner.noise_prompts, cluster_noise_prompts(model.noisy_text, 5, seed=0))
    assert "noise_prompts" in learner.state_dict()
    assert {name for name, _ in learner.named_parameters()} == set(learner.state_dict()) - {
        "noise_prompts"
    }


def test_noise_prompts_of_a_checkpoint_are_kept(clip_model):
    trained = anprompt(clip_model)
    trained.prepare_training()
    other = anprompt(clip_model)
    other.prompts = ClassPrompts(TEMPLATE, ["car", "boat"])
    other.frozen_text_features = other.frozen_text_features[:2]
    other.prompt_learner.load_state_dict(trained.prompt_learner.state_dict())
    other.prepare_training()
    assert torch.equal(other.prompt_learner.noise_prompts, trained.prompt_learner.noise_prompts)


# The model -------------------------------------------------------------------------------------


def plain_mmrl_features(clip_model, learner, image):
    """Section 4 and 5 with nothing shared: whole sequences, every layer, both towers."""
    layers = learner.layers
    tokens = learner.shared_tokens()
    ids = clip.tokenize([TEMPLATE.format(name) for name in CLASSNAMES])
    x = clip_model.token_embedding(ids) + clip_model.positional_embedding
    y = clip_model.visual.ln_pre(clip_model.visual.embed(image))
    for layer in range(12):
        if layer in layers:
            place = insert_tokens if layer == layers[0] else replace_tokens
            x = place(x, learner.to_text[layer - layers[0]](tokens))
            y = place(y, learner.to_vision[layer - layers[0]](tokens))
        x = clip_model.transformer.resblocks[layer].run(x)
        y = clip_model.visual.transformer.resblocks[layer].run(y)
    end = ids.argmax(dim=-1) + len(tokens)
    s = clip_model.ln_final(x[torch.arange(len(x)), end]) @ clip_model.text_projection
    f = clip_model.visual.ln_post(y[:, 0]) @ clip_model.visual.proj
    r = clip_model.visual.ln_post(y[:, 1 : 1 + len(tokens)]).mean(dim=1) @ learner.proj_rep
    return [F.normalize(v, dim=-1) for v in (s, f, r)]


def test_features_equal_the_plain_path(clip_model, batch):
    model = anprompt(clip_model)
    model.prepare_training()
    image = batch.image
    s_plain, f_plain, r_plain = plain_mmrl_features(clip_model, model.prompt_learner, image)
    s = model.text_features()
    f, r, f_frozen = model.encode_image(image, with_frozen=True)
    for fast, plain in ((s, s_plain), (f, f_plain), (r, r_plain)):
        torch.testing.assert_close(fast, plain, atol=2e-6, rtol=1e-5)
    frozen = F.normalize(clip_model.encode_image(image), dim=-1)
    torch.testing.assert_close(f_frozen, frozen, atol=2e-6, rtol=1e-5)


def test_gradients_equal_the_plain_path(clip_model, batch):
    model = anprompt(clip_model)
    model.prepare_training()
    learner = model.prompt_learner
    image = batch.image
    directions = [torch.randn(64, generator=torch.Generator().manual_seed(i)) for i in range(3)]

    def gradients(features):
        total = sum(((x @ d) ** 2).sum() for x, d in zip(features, directions, strict=True))
        return torch.autograd.grad(total, list(learner.parameters()))

    plain = gradients(plain_mmrl_features(clip_model, learner, image))
    f, r, _ = model.encode_image(image)
    for a, b in zip(gradients((model.text_features(), f, r)), plain, strict=True):
        assert (a - b).norm() <= 2e-5 * b.norm()


def test_without_noise_it_is_mmrl(clip_model, batch):
    """Noise weight 0, no noise prompts, WA weight 0, tau = 100: MMRL's logits and loss."""
    model = anprompt(clip_model, NOISE__WEIGHT=0.0, NOISE__PROMPTS=False, WA_WEIGHT=0.0)
    model.prepare_training()
    reference = MMRLCLIP(
        clip_model,
        model.prompt_learner,
        PROMPTS,
        alpha=model.alpha,
        inference=always("mix"),
        reg_weight=model.sim_weight,
    )
    loss, other = model.loss(batch), reference.loss(batch)
    torch.testing.assert_close(loss.logits, other.logits, atol=1e-4, rtol=1e-5)
    assert loss.total.item() == pytest.approx(other.total.item(), rel=1e-6)
    # The same again from the equations, on features of the plain path.
    s, f, r = plain_mmrl_features(clip_model, model.prompt_learner, batch.image)
    f0 = F.normalize(clip_model.encode_image(batch.image), dim=-1)
    by_hand = mmrl_loss(
        z=100 * f @ s.t(),
        z_rep=100 * r @ s.t(),
        label=batch.label,
        f=f,
        f_frozen=f0,
        s=s,
        s_frozen=model.frozen_text_features,
        alpha=0.7,
        reg_weight=0.5,
    )
    assert loss.total.item() == pytest.approx(sum(by_hand.values()).item(), rel=1e-5)


@pytest.mark.parametrize("change", [{"NOISE__PROMPTS": False}, {"WA_WEIGHT": 0.0}])
def test_each_addition_changes_the_loss(clip_model, batch, change):
    losses = []
    for model in (anprompt(clip_model), anprompt(clip_model, **change)):
        model.prepare_training()
        losses.append(model.loss(batch).total.item())
    assert abs(losses[0] - losses[1]) > 1e-6


def test_beta_blends_visual_tokens(clip_model, batch):
    outright = anprompt(clip_model).encode_image(batch.image)[1]
    blended = anprompt(clip_model, BETA=0.5).encode_image(batch.image)[1]
    assert not torch.allclose(outright, blended, atol=1e-4)


def test_rules(clip_model, batch):
    model = anprompt(clip_model, rule="class").eval()
    with torch.no_grad():
        rules = model.inference_rules(batch.image)
        assert torch.equal(model(batch.image), rules["class"])
        model.rule = "mix"
        assert torch.equal(model(batch.image), rules["mix"])
    assert not torch.allclose(rules["class"], rules["mix"])


@pytest.mark.parametrize(
    ("task", "subsample", "dataset", "source", "rule"),
    [
        ("B2N", "base", "EuroSAT", None, "mix"),
        ("B2N", "new", "EuroSAT", "EuroSAT", "class"),
        ("B2N", "all", "EuroSAT", None, "class"),
        ("FS", "all", "EuroSAT", None, "mix"),
        ("CD", "all", "ImageNet", None, "mix"),
        ("CD", "all", "ImageNet", "ImageNet", "mix"),
        ("CD", "all", "EuroSAT", "ImageNet", "class"),
    ],
)
def test_inference_rule(task, subsample, dataset, source, rule):
    auto = InferenceRule(setting="auto", task=task, subset=subsample, dataset=dataset)
    assert auto.choose(source=source) == rule
    explicit = InferenceRule(setting="class", task=task, subset=subsample, dataset=dataset)
    assert explicit.choose(source=source) == "class"
    # A checkpoint that names its classes: of others, nobody knows the mixture to be better.
    names = {"trained": ["a", "b"], "source": source}
    assert auto.choose(**names, tested=["b", "a"]) == rule
    assert auto.choose(**names, tested=["a", "c"]) == "class"


def test_bad_settings_are_refused(clip_model):
    cfg = default_cfg("ANPrompt")
    cfg.TRAINER.ANPROMPT.INFERENCE, cfg.TASK = "both", "XD"
    with pytest.raises(UsageError, match="TASK 'XD': .*INFERENCE 'both': takes one of auto"):
        TRAINER_REGISTRY.get("ANPrompt").check_cfg(cfg)
    with pytest.raises(ValueError, match="layers 1 to 12"):
        anprompt(clip_model, LAYERS=[12, 13])
    with pytest.raises(ValueError, match="consecutive"):
        anprompt(clip_model, LAYERS=[6, 8])
    with pytest.raises(ValueError, match="choose clip or random"):
        anprompt(clip_model, PROJ_INIT="zero")


def test_projection_starts_as_clips(clip_model):
    assert torch.equal(anprompt(clip_model).prompt_learner.proj_rep, clip_model.visual.proj)
    random = anprompt(clip_model, PROJ_INIT="random").prompt_learner.proj_rep
    assert not torch.allclose(random, clip_model.visual.proj)
