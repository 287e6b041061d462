"""The baselines' own pieces: fast paths against plain twins, losses against their equations."""

import pathlib

import pytest
import torch
import torch.nn.functional as F
from test_golden import golden_cfg

import clip
from anprompt.runs.config import default_cfg
from clip.edits import InsertThenReplace, ReplaceTokens
from clip.model import build_model
from dassl.engine import TRAINER_REGISTRY, build_trainer
from datasets.templates import PROMPTSRC_TEMPLATES
from trainers import cocoop
from trainers.base import ClassPrompts, TrainingBatch, apply_speed_settings
from trainers.coop import phrase_context, rest_of_phrase
from trainers.promptsrc import ensemble_features, promptsrc_loss

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = ["cat", "very large dog", "Highway or Road", "c"]
BASELINES = ["CoCoOp", "KgCoOp", "VPT", "IVLP", "PromptSRC", "MMRL", "MMRLpp"]


@pytest.fixture(scope="module")
def model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False)


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def prompted(name, model, classnames=NAMES, dataset="EuroSAT", path="", **settings):
    """A method's model, without data around it; ``path`` is where the weights come from."""
    trainer_class = TRAINER_REGISTRY.get(name)
    cfg = default_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.INPUT.SIZE = str(path), (64, 64)
    cfg.DATASET.NAME = dataset
    cfg.DATASET.SUBSAMPLE_CLASSES = "base"
    for key, value in settings.items():
        cfg.TRAINER[trainer_class.method][key] = value
    torch.manual_seed(1)
    built = trainer_class.build(
        cfg, model, ClassPrompts(trainer_class.fixed_template(cfg), classnames)
    )
    built.prepare_training()
    with torch.no_grad():  # away from symmetric starts such as zero matrices
        for parameter in built.prompt_learner.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return built


def plain_text_features(model, prompts, context=None, edit=None, inserted=0):
    """CLIP's text tower over all 77 positions of every prompt, one sequence per class.

    ``context`` (n, D) stands at positions 1 .. n; ``edit`` may insert ``inserted`` tokens.
    """
    tokens = clip.tokenize(prompts)
    x = model.token_embedding(tokens)
    if context is not None:
        context = context.expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], context, x[:, 1 + context.shape[1] :]], dim=1)
    x = model.transformer.run(x + model.positional_embedding, edit=edit)
    ends = tokens.argmax(dim=-1) + inserted
    x = model.ln_final(x[torch.arange(len(x)), ends]) @ model.text_projection
    return F.normalize(x, dim=-1)


def plain_image_features(model, images, prompts):
    """The image tower with every position of every layer computed."""
    visual = model.visual
    x = torch.cat([visual.embed(images), prompts[0].expand(len(images), -1, -1)], dim=1)
    x, n = visual.ln_pre(x), len(prompts[0])
    for layer, block in enumerate(visual.transformer.resblocks):
        if 0 < layer < len(prompts):
            x = torch.cat([x[:, :-n], prompts[layer].expand(len(x), -1, -1)], dim=1)
        x = block.run(x)
    return F.normalize(visual.project(x[:, 0]), dim=-1)


def assert_same(fast, plain, learner):
    """Equal values and, of a random projection of them, equal gradients."""
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    direction = torch.randn(fast.shape, generator=torch.Generator().manual_seed(3))
    parameters = [p for p in learner.parameters() if p.requires_grad]
    grads = [
        torch.autograd.grad((x * direction).sum(), parameters, allow_unused=True)
        for x in (fast, plain)
    ]
    assert any(g is not None for g in grads[0])
    for got, expected in zip(*grads, strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


# Fast paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["", "a photo of a"])
def test_cocoop_shares_one_prefix_per_image(words, model, images):
    built = prompted("CoCoOp", model, N_CTX=4, CTX_INIT=words)
    learner = built.prompt_learner
    features = built.image_features(images)
    context = learner.context(features)
    prompts = [f"{words or 'X X X X'} {name}." for name in NAMES]
    plain = torch.stack([plain_text_features(model, prompts, one) for one in context])
    assert_same(built.text_features_for(features, learner.prompts), plain, learner)


def test_cocoop_evaluates_in_chunks(model, images, monkeypatch):
    built = prompted("CoCoOp", model, N_CTX=4)
    built.prompt_learner.train()
    whole = built(images)
    built.prompt_learner.eval()
    monkeypatch.setattr(cocoop, "PROMPTS_AT_ONCE", 1)
    torch.testing.assert_close(built(images), whole, atol=1e-4, rtol=0)
    assert whole.shape == (3, len(NAMES))


@pytest.mark.parametrize(("name", "n_ctx"), [("IVLP", 2), ("PromptSRC", 4)])
def test_text_prompts_equal_whole_sequences(name, n_ctx, model):
    built = prompted(name, model, N_CTX_TEXT=n_ctx, PROMPT_DEPTH_TEXT=12)
    learner = built.prompt_learner
    edit = ReplaceTokens(dict(enumerate(learner.text_prompts, start=1)), position=1)
    prompts = [f"a photo of a {name}." for name in NAMES]
    plain = plain_text_features(model, prompts, learner.ctx, edit)
    assert_same(built.text_features(), plain, learner)


@pytest.mark.parametrize("name", ["VPT", "IVLP", "PromptSRC"])
@pytest.mark.parametrize("depth", [1, 3, 12])
def test_vision_prompts_equal_every_position(name, depth, model, images):
    built = prompted(name, model, N_CTX_VISION=3, PROMPT_DEPTH_VISION=depth)
    learner = built.prompt_learner
    assert len(learner.vision_prompts) == depth
    plain = plain_image_features(model, images, list(learner.vision_prompts))
    assert_same(built.image_features(images), plain, learner)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_mmrlpp_text_equals_whole_sequences(beta, model):
    built = prompted("MMRLpp", model, BETA=beta, REP_DIM=32, PROJ_LORA_DIM=4)
    learner = built.prompt_learner
    projected = [  # W + A B of each layer, written out
        learner.tokens @ (learner.to_text.weight + r.A @ r.B).t() + r.bias
        for r in learner.to_text.layers
    ]
    edit = InsertThenReplace(dict(enumerate(projected, start=5)), beta=beta)
    prompts = [f"a centered satellite photo of {name}." for name in NAMES]
    plain = plain_text_features(model, prompts, edit=edit, inserted=len(learner.tokens))
    assert_same(built.text_features(), plain, learner)


def test_no_graph_where_nothing_is_learned(model, images):
    label = torch.tensor([0, 1, 2])
    assert not prompted("CoCoOp", model).image_features(images).requires_grad
    assert not prompted("KgCoOp", model).image_features(images).requires_grad
    assert not prompted("VPT", model).text_features().requires_grad
    language_only = prompted("IVLP", model, N_CTX_VISION=0, PROMPT_DEPTH_VISION=0)
    assert not language_only.image_features(images).requires_grad
    built = prompted("PromptSRC", model)
    f, teacher = built.both_image_features(images)
    assert f.requires_grad and not teacher.requires_grad
    built.loss(TrainingBatch(images, label)).total.backward()
    assert not built.teacher_text.requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["KgCoOp", "IVLP", "PromptSRC", "MMRLpp"])
def test_text_runs_once_per_evaluation(name, model, images, monkeypatch):
    built = prompted(name, model)
    calls = []
    original = type(built).text_features
    monkeypatch.setattr(
        type(built), "text_features", lambda self: calls.append(1) or original(self)
    )
    built.prompt_learner.eval()
    with torch.no_grad():
        first, second = built(images), built(images)
        assert torch.equal(first, second)
        assert len(calls) == 1
        built.prompt_learner.train()
        built.prompt_learner.eval()
        built(images)
    assert len(calls) == 2


def test_promptsrc_teacher_image_is_frozen_clip(model, images):
    built = prompted("PromptSRC", model)
    _, teacher = built.both_image_features(images)
    expected = F.normalize(model.encode_image(images), dim=-1)
    torch.testing.assert_close(teacher, expected, atol=1e-6, rtol=1e-5)


def test_words_of_a_phrase_that_are_learned_and_that_are_not(model):
    assert rest_of_phrase("a_photo  of a", 2) == "of a {}"
    assert rest_of_phrase("a photo of a", 4) == rest_of_phrase("a photo", 5) == "{}"
    context, words = phrase_context(model, "a_photo  of a", 2, "CTX_INIT")
    assert words == "a photo" and context.shape == (2, 128)
    tokens = clip.tokenize("a photo")[0, 1:3]
    assert torch.equal(context, model.token_embedding(tokens))


# Losses ----------------------------------------------------------------------------------------


def test_kgcoop_loss_follows_its_equation(model, images):
    built = prompted("KgCoOp", model, N_CTX=4, W=3.0)
    label = torch.tensor([0, 1, 2])
    loss = built.loss(TrainingBatch(images, label))
    logits = loss.logits
    s = built.text_features()
    own = [f"a centered satellite photo of {name}." for name in NAMES]
    frozen = plain_text_features(model, own)
    torch.testing.assert_close(logits, model.logit_scale.exp() * built.image_features(images) @ s.T)
    similarity = sum(F.cosine_similarity(a, b, dim=0) for a, b in zip(s, frozen, strict=True))
    expected = F.cross_entropy(logits, label) + 3.0 * (1 - similarity / len(NAMES))
    torch.testing.assert_close(loss.total, expected)


def test_kgcoop_template_of_textures(model):
    texture = prompted("KgCoOp", model, dataset="DescribableTextures")
    expected = plain_text_features(
        model, [f"a photo of a {name}, a type of texture." for name in NAMES]
    )
    torch.testing.assert_close(texture.frozen_text_features, expected, atol=1e-5, rtol=1e-5)


def test_promptsrc_loss_follows_its_equation():
    generator = torch.Generator().manual_seed(5)
    z, z_teacher = torch.randn(2, 2, 4, generator=generator).double() * 3
    f, f_teacher = torch.randn(2, 2, 8, generator=generator).double()
    s, s_teacher = torch.randn(2, 4, 8, generator=generator).double()
    label = torch.tensor([1, 3])
    p, q = z.softmax(dim=1), z_teacher.softmax(dim=1)
    expected = 0.0
    for b in range(2):
        expected -= float(p[b, label[b]].log()) / 2
        for c in range(4):
            expected += float(q[b, c] * (q[b, c].log() - p[b, c].log())) / (2 * 4)
    expected += 10 * float((f - f_teacher).abs().sum()) / (2 * 8)
    expected += 25 * float((s - s_teacher).abs().sum()) / (4 * 8)
    terms = promptsrc_loss(
        z=z,
        z_teacher=z_teacher,
        label=label,
        f=f,
        f_teacher=f_teacher,
        s=s,
        s_teacher=s_teacher,
        image_weight=10,
        text_weight=25,
    )
    assert float(sum(terms.values())) == pytest.approx(expected, rel=1e-12)


def test_promptsrc_text_teacher_is_the_mean_over_sixty_templates(model):
    assert len(PROMPTSRC_TEMPLATES) == 60
    names = NAMES[:2]
    total = torch.zeros(2, model.visual.output_dim)
    for template in PROMPTSRC_TEMPLATES:
        total += model.encode_text(clip.tokenize([template.format(name) for name in names]))
    expected = F.normalize(total, dim=-1)
    got = ensemble_features(model, names, PROMPTSRC_TEMPLATES)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_mmrlpp_starts_from_clips_projection_and_one_shared_map(model):
    torch.manual_seed(0)
    from trainers.mmrlpp import ResidualRepresentationLearner

    learner = ResidualRepresentationLearner(model, 5, [6, 7, 8], 32, 0.5, 4, 8)
    assert torch.equal(learner.proj_rep, model.visual.proj)
    first, *others = learner.to_vision(learner.tokens)
    assert all(torch.equal(first, other) for other in others)


def test_beta_is_the_training_data_sets_unless_asked(tiny_clip_path, fake_eurosat, tmp_path):
    def beta_after_loading(beta_from, meta):
        cfg = golden_cfg({}, "MMRLpp", tiny_clip_path, fake_eurosat, tmp_path)
        cfg.merge_from_file(str(ROOT / "configs/trainers/MMRLpp/vit_b16_cross_datasets.yaml"))
        cfg.MODEL.BACKBONE.NAME, cfg.INPUT.SIZE = str(tiny_clip_path), (64, 64)
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.TRAINER.MMRLpp.PREC = "fp32"
        cfg.TRAINER.MMRLpp.BETA_FROM = beta_from
        trainer = build_trainer(cfg)
        trainer.model.on_checkpoint_loaded(meta)
        return trainer.model.prompt_learner.beta, trainer.model.rule

    assert beta_after_loading("source", {}) == (0.9, "class")  # upstream's file, so ImageNet
    assert beta_after_loading("target", {}) == (0.3, "class")  # EuroSAT's, which is tested
    food = {"dataset": "Food101"}
    assert beta_after_loading("source", food) == (0.3, "class")
    with pytest.raises(ValueError, match="BETA_FROM 'both': takes one of source, target"):
        beta_after_loading("both", {})


@pytest.mark.parametrize(
    ("task", "dataset", "in_file", "beta", "weight"),
    [
        ("B2N", "EuroSAT", 1.0, 0.2, 0.01),
        ("FS", "Shapes", 1.0, 0.9, 1.0),
        ("CD", "ImageNet", 0.2, 0.9, 0.1),
        ("CD", "EuroSAT", 0.2, 0.3, 0.2),
        ("CD", "Shapes", None, 0.9, 0.2),
    ],
)
def test_mmrlpp_takes_upstreams_values_whichever_file_is_used(
    model, tmp_path, task, dataset, in_file, beta, weight
):
    """Upstream's own file gives one number, in whose place its code puts the table's."""
    cfg = default_cfg("MMRLpp")
    cfg.TASK, cfg.DATASET.NAME = task, dataset
    if in_file is not None:
        file = tmp_path / "upstream.yaml"
        numbers = f"    BETA: 0.9\n    REG_WEIGHT: {in_file}\n    REP_DIM: 32\n"
        file.write_text(f"TRAINER:\n  MMRLpp:\n{numbers}")
        cfg.merge_from_file(str(file))
    built = TRAINER_REGISTRY.get("MMRLpp").build(cfg, model, ClassPrompts("{}", NAMES))
    assert (built.prompt_learner.beta, built.reg_weight) == (beta, weight)
    cfg.merge_from_list(["TRAINER.MMRLpp.REG_WEIGHT", 3.0, "TRAINER.MMRLpp.BETA", 0.5])
    built = TRAINER_REGISTRY.get("MMRLpp").build(cfg, model, ClassPrompts("{}", NAMES))
    assert (built.prompt_learner.beta, built.reg_weight) == (0.5, 3.0)


# Settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_every_published_configuration_is_understood(name):
    files = set((ROOT / "configs/trainers" / name).glob("*.yaml"))
    files -= {ROOT / "configs/trainers" / name / "protocols.yaml"}
    assert files
    for file in sorted(files):
        cfg = default_cfg()
        cfg.merge_from_file(str(file))
        cfg.TRAINER.NAME = name
        trainer_class = TRAINER_REGISTRY.get(name)
        trainer_class.check_cfg(cfg)
        assert cfg.TRAINER[trainer_class.method].PREC in ("fp16", "amp")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("VPT", {"PROMPT_DEPTH_VISION": 13}, "PROMPT_DEPTH_VISION 13: choose 1 to 12"),
        ("VPT", {"PROMPT_DEPTH_VISION": 0}, "PROMPT_DEPTH_VISION 0: choose 1 to 12"),
        ("VPT", {"N_CTX_VISION": 0}, "N_CTX_VISION must be at least 1"),
        ("IVLP", {"PROMPT_DEPTH_TEXT": 0}, "IVLP.PROMPT_DEPTH_TEXT 0: choose 1 to 12"),
        ("IVLP", {"PROMPT_DEPTH_VISION": 20}, "IVLP.PROMPT_DEPTH_VISION 20: choose 1 to 12"),
        ("PromptSRC", {"CTX_INIT": "a"}, "CTX_INIT 'a' has fewer words than the 4"),
        ("IVLP", {"CTX_INIT": "very " * 80}, "CTX_INIT has 80 words, more than CLIP reads"),
        ("MMRLpp", {"REP_LAYERS": [6, 8]}, "list consecutive layers"),
        ("MMRLpp", {"REP_LAYERS": [12, 13]}, "the backbone has layers 1 to 12"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name, settings, message, model):
    with pytest.raises(ValueError, match=message):
        prompted(name, model, **settings)


# Precision -------------------------------------------------------------------------------------


def step(built, images):
    result = built.loss(TrainingBatch(images, torch.tensor([0, 1, 2])))
    loss, logits = result.total, result.logits
    loss.backward()
    assert torch.isfinite(loss) and loss.dtype == torch.float32
    for name, parameter in built.prompt_learner.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all(), name
    return loss.detach(), logits.detach()


def test_convolutions_are_exact_unless_asked_for(model, monkeypatch):
    """PyTorch's own default rounds their inputs to 10 bits on a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)
    cfg = default_cfg()
    apply_speed_settings(cfg, model)
    assert torch.backends.cudnn.allow_tf32 is False
    cfg.INEXACT.TF32 = True
    apply_speed_settings(cfg, model)
    assert torch.backends.cudnn.allow_tf32 is True


@pytest.fixture(scope="module")
def half_model(tiny_clip_path):
    return clip.load_model(str(tiny_clip_path), dtype=torch.float16)


@pytest.mark.parametrize("name", BASELINES)
def test_reduced_precision_stays_close(name, model, half_model, tiny_clip_path, images):
    """What a GPU computes under PREC fp16 and, with another 16-bit type, under PREC amp."""
    expected, logits = step(prompted(name, model), images)
    half_loss, half_logits = step(prompted(name, half_model, path=tiny_clip_path), images)
    torch.testing.assert_close(half_logits, logits, atol=0.2, rtol=0)
    torch.testing.assert_close(half_loss, expected, atol=0.1, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed_loss, mixed_logits = step(prompted(name, model), images)
    torch.testing.assert_close(mixed_logits.float(), logits, atol=1.0, rtol=0)
    torch.testing.assert_close(mixed_loss, expected, atol=0.3, rtol=0)
