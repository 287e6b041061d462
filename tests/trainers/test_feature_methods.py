"""Methods on frozen features: their formulas written a second time, classes they do not know."""

import pytest
import torch
import torch.nn.functional as F
from test_contract import method_cfg

from clip.model import build_model
from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY
from trainers.base import ClassPrompts, KnownFeatures, TrainingBatch, load_learned
from trainers.tipadapter import CacheLearner, grid
from trainers.trainer import read_learned

CLASSES = ["river", "annual crop land", "sea or lake"]
PER_CLASS = ["TipAdapter", "TipAdapterF", "TaskRes", "LinearProbe", "CLAP"]


@pytest.fixture(scope="module")
def clip_model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False).eval()


@pytest.fixture
def build(clip_model, tiny_clip_path):
    def make(name, classes=CLASSES, dataset="EuroSAT"):
        cfg = method_cfg(name, tiny_clip_path)
        cfg.DATASET.NAME, cfg.DATASET.NUM_SHOTS = dataset, 2
        method = TRAINER_REGISTRY.get(name)
        torch.manual_seed(3)
        return method.build(cfg, clip_model, ClassPrompts(method.fixed_template(cfg), classes))

    return make


def drawn(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text_of(clip_model, texts):
    from clip import tokenize

    return torch.stack([clip_model.encode_text(tokenize([text]))[0].float() for text in texts])


def cosine(f, t):
    return float((f / f.norm()) @ (t / t.norm()))


def filled_cache(model, counts=(2, 1, 2)):
    features = drawn(4, sum(counts), 64)
    labels = torch.tensor([c for c, count in enumerate(counts) for _ in range(count)])
    model.prompt_learner.fill(features, labels)
    return features, labels


@torch.no_grad()
def test_tip_adapter_is_zero_shot_plus_cache(build, clip_model):
    model = build("TipAdapter").eval()
    views, labels = filled_cache(model)
    f = drawn(2, 64, seed=6)
    texts = text_of(clip_model, [f"a centered satellite photo of {name}." for name in CLASSES])
    alpha, beta = 2.0, 1.0  # EuroSAT's
    keys = [sum(view[i] for view in views) / 4 for i in range(5)]
    for b in range(2):
        for c in range(3):
            cached = sum(
                float(torch.exp(torch.tensor(-beta * (1 - cosine(f[b], keys[i])))))
                for i in range(5)
                if labels[i] == c
            )
            expected = 100 * cosine(f[b], texts[c]) + alpha * cached
            found = model.inference_rules(KnownFeatures(f))["fixed"][b, c]
            assert float(found) == pytest.approx(expected, abs=1e-3)


@torch.no_grad()
def test_search_takes_the_first_of_the_best(build):
    model = build("TipAdapter").eval()
    filled_cache(model)
    f, labels = drawn(40, 64, seed=7), torch.arange(40) % 3
    betas, alphas = grid(12, 5), grid(10, 4)
    assert betas == pytest.approx([0.1, 2.48, 4.86, 7.24, 9.62])
    best = (-1, None)
    for beta in betas:
        for alpha in alphas:
            model.prompt_learner.strengths[0] = torch.tensor([alpha, beta])
            logits = model.inference_rules(KnownFeatures(f))["fixed"]
            correct = int((logits.argmax(dim=1) == labels).sum())
            best = max(best, (correct, [alpha, beta]), key=lambda pair: pair[0])
    model.search(KnownFeatures(f), labels, betas, alphas)
    assert model.prompt_learner.strengths[1].tolist() == pytest.approx(best[1])
    assert model.rule == "searched"


def test_tip_adapter_f_steps_as_adamw_on_its_keys(build):
    model = build("TipAdapterF").train()
    filled_cache(model)
    learner = model.prompt_learner
    keys = learner.keys.detach().clone().requires_grad_()
    present = learner.present.clone()
    images = KnownFeatures(drawn(6, 64, seed=8))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    text = F.normalize(model.base_text_features, dim=1)
    ours = torch.optim.AdamW([learner.keys], lr=1e-3, eps=1e-4)
    theirs = torch.optim.AdamW([keys], lr=1e-3, eps=1e-4)
    for _ in range(10):
        loss = model.loss(TrainingBatch(images, labels))
        ours.zero_grad()
        loss.total.backward()
        ours.step()
        f = F.normalize(images.values, dim=1)
        flat, one_hot = keys.flatten(0, 1), torch.eye(3).repeat_interleave(2, dim=0)
        one_hot = one_hot * present.flatten()[:, None]
        logits = 100 * f @ text.t() + 2.0 * ((f @ flat.t() - 1).exp() @ one_hot)
        expected = F.cross_entropy(logits, labels)
        theirs.zero_grad()
        expected.backward()
        theirs.step()
        assert loss.total.item() == pytest.approx(expected.item(), abs=1e-4)
    torch.testing.assert_close(learner.keys[0], keys[0], atol=1e-5, rtol=0)
    assert torch.equal(learner.keys[1, 1], torch.zeros(64))  # where there is no key


@torch.no_grad()
def test_task_residuals_move_the_text(build, clip_model):
    model = build("TaskRes").eval()
    x = drawn(3, 64, seed=9)
    model.prompt_learner.text_feature_residuals.copy_(x)
    texts = text_of(clip_model, [f"a centered satellite photo of {name}." for name in CLASSES])
    f = drawn(2, 64, seed=6)
    scale = float(clip_model.logit_scale.exp())
    expected = [[scale * cosine(f[b], texts[c] + 0.5 * x[c]) for c in range(3)] for b in range(2)]
    torch.testing.assert_close(model(KnownFeatures(f)), torch.tensor(expected), atol=1e-3, rtol=0)
    assert build("TaskRes", dataset="OxfordFlowers").alpha == 1.0


@torch.no_grad()
def test_imagenet_has_several_wordings(build, clip_model):
    words = [
        "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
        "a {} in a video game.", "art of the {}.", "a photo of the small {}.",
    ]  # fmt: skip

    def features(templates):
        return torch.stack([text_of(clip_model, [w.format(n) for n in CLASSES]) for w in templates])

    own = features([*words, "a photo of a {}."]).mean(dim=0)
    torch.testing.assert_close(
        build("TaskRes", dataset="ImageNetA").base_text_features, own, atol=1e-4, rtol=0
    )
    mean = F.normalize(F.normalize(features(words), dim=-1).mean(dim=0), dim=-1)
    torch.testing.assert_close(
        build("TipAdapter", dataset="ImageNet").base_text_features, mean, atol=1e-5, rtol=0
    )
    single = features(["a photo of a {}."])[0]
    torch.testing.assert_close(
        build("CLIPAdapter", dataset="ImageNet").base_text_features, single, atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_adapter_is_mixed_with_its_input(build, clip_model):
    model = build("CLIPAdapter").eval()
    up, down = model.prompt_learner.fc[2].weight, model.prompt_learner.fc[0].weight
    assert down.shape == (16, 64) and up.shape == (64, 16)
    texts = text_of(clip_model, [f"a centered satellite photo of {name}." for name in CLASSES])
    f = drawn(2, 64, seed=6) * 7
    adapted = (up @ (down @ f.t()).clamp_min(0)).clamp_min(0).t()
    mixed = 0.2 * adapted + 0.8 * f
    scale = float(clip_model.logit_scale.exp())
    expected = [[scale * cosine(mixed[b], texts[c]) for c in range(3)] for b in range(2)]
    torch.testing.assert_close(model(KnownFeatures(f)), torch.tensor(expected), atol=1e-3, rtol=0)


def test_clap_charges_each_class_by_its_zero_shot_probability(build):
    model = build("CLAP").train()
    views, labels = drawn(2, 5, 64), torch.tensor([0, 0, 1, 2, 2])
    model.look_at(views, labels)
    t = model.base_text_features
    scale = float(model.scale)
    multipliers = []
    for c in range(3):
        own = [view[i] for view in views for i in range(5) if labels[i] == c]
        logits = [torch.tensor([scale * cosine(f, t[k]) for k in range(3)]) for f in own]
        multipliers.append(sum(float(x.softmax(0)[c]) for x in logits) / len(own))
    assert model.multipliers.tolist() == pytest.approx(multipliers, abs=1e-4)
    with torch.no_grad():
        model.prompt_learner.prototypes += 0.1 * drawn(3, 64, seed=11)
    w = model.prompt_learner.prototypes.detach()
    expected = sum(multipliers[c] * float(((w[c] - t[c]) ** 2).sum()) for c in range(3)) / 3
    loss = model.loss(TrainingBatch(KnownFeatures(drawn(4, 64)), torch.tensor([0, 1, 2, 0])))
    assert float(loss.terms["constraint"]) == pytest.approx(expected, rel=1e-3)
    assert set(build("LinearProbe").loss(
        TrainingBatch(KnownFeatures(drawn(4, 64)), torch.tensor([0, 1, 2, 0]))
    ).terms) == {"ce"}  # fmt: skip


def trained(build, name):
    """A model that differs from an untrained one, and its checkpoint."""
    model = build(name).eval()
    with torch.no_grad():
        if isinstance(model.prompt_learner, CacheLearner):
            filled_cache(model)
            model.prompt_learner.keys.mul_(3)
        for parameter in model.prompt_learner.parameters():
            parameter += 0.5 * drawn(*parameter.shape, seed=12)
    state = {key: x.clone() for key, x in model.prompt_learner.state_dict().items()}
    return model, {"state_dict": state, "meta": {"classnames": CLASSES}}


@pytest.mark.parametrize("name", PER_CLASS)
@torch.no_grad()
def test_classes_are_known_by_name_or_answered_zero_shot(name, build):
    whole, checkpoint = trained(build, name)
    f = KnownFeatures(drawn(4, 64))
    subset = build(name, [CLASSES[2], CLASSES[0]]).eval()
    load_learned(subset, checkpoint)
    torch.testing.assert_close(subset(f), whole(f)[:, [2, 0]], atol=1e-4, rtol=1e-5)
    others = [CLASSES[1], "wood"]
    new = build(name, others).eval()
    load_learned(new, checkpoint)
    assert torch.equal(new(f), build(name, others).eval()(f))
    base = build("TipAdapter" if name.startswith("Tip") else "TaskRes", others).eval()
    torch.testing.assert_close(new(f), base(f))
    again = build(name).eval()
    load_learned(again, {**checkpoint, "meta": {}})  # as upstream's files: no names
    assert torch.equal(again(f), whole(f))


@pytest.mark.parametrize("name", PER_CLASS)
def test_rows_that_do_not_fit_are_refused(name, build):
    _, checkpoint = trained(build, name)
    key = next(iter(checkpoint["state_dict"]))
    short = {**checkpoint["state_dict"], key: checkpoint["state_dict"][key][:2]}
    model = build(name).eval()
    f = KnownFeatures(drawn(4, 64))
    before = model(f)
    for damaged in ({**checkpoint, "state_dict": short}, {"state_dict": short, "meta": {}}):
        with pytest.raises(UsageError, match="not a row for each of the 3 classes"):
            load_learned(model, damaged)
    flat = {**checkpoint["state_dict"], key: torch.zeros(())}
    with pytest.raises(UsageError, match="not a row for each"):
        load_learned(model, {**checkpoint, "state_dict": flat})
    assert torch.equal(model(f), before)


@pytest.mark.parametrize("name", PER_CLASS)
def test_files_without_names_are_not_for_new_classes(name, build, tmp_path):
    _, checkpoint = trained(build, name)
    path = tmp_path / "model.pth.tar-1"
    cfg = method_cfg(name)

    def names(subset, task="B2N", dataset="EuroSAT", meta=None):
        more = {} if meta is None else {"meta": meta}
        torch.save({"state_dict": checkpoint["state_dict"], **more}, path)
        cfg.DATASET.SUBSAMPLE_CLASSES, cfg.TASK, cfg.DATASET.NAME = subset, task, dataset
        return read_learned(cfg, path)["meta"].get("classnames")

    assert names("base") is None and names("all", "FS") is None
    assert names("new") == [] and names("all", "CD") == []
    assert names("all", "CD", "ImageNetV2") is None
    assert names("new", meta={"classnames": CLASSES}) == CLASSES
    own = {"dataset": "EuroSAT", "subsample_classes": "new"}
    assert names("new", meta=own) is None and names("base", meta=own) == []


def test_residuals_have_the_strength_they_were_trained_with(build):
    _, checkpoint = trained(build, "TaskRes")
    assert build("TaskRes").alpha == 0.5 and build("TaskRes", dataset="OxfordFlowers").alpha == 1
    for dataset, alpha in (("OxfordFlowers", 1.0), ("EuroSAT", 0.5)):
        meta = {"classnames": CLASSES, "dataset": dataset}
        for tested in ("EuroSAT", "OxfordFlowers"):
            model = build("TaskRes", dataset=tested)
            load_learned(model, {**checkpoint, "meta": meta})
            assert model.alpha == alpha
    load_learned(model := build("TaskRes", dataset="OxfordFlowers"), {**checkpoint, "meta": {}})
    assert model.alpha == 1.0


@torch.no_grad()
def test_caches_of_other_sizes_are_read(build):
    whole, checkpoint = trained(build, "TipAdapter")
    f = KnownFeatures(drawn(4, 64))
    for keys in (1, 5):
        model = build("TipAdapter").eval()
        state = checkpoint["state_dict"]
        if keys == 5:
            model.prompt_learner.make_room(5)
        else:
            model.prompt_learner.keys = torch.nn.Parameter(model.prompt_learner.keys[:, :1])
            model.prompt_learner.present = model.prompt_learner.present[:, :1]
        load_learned(model, {**checkpoint, "state_dict": dict(state)})
        torch.testing.assert_close(model(f), whole(f))


@pytest.mark.parametrize("name", ["LinearProbe", "CLAP", "TaskRes"])
def test_what_is_each_classs_own_starts_no_training_on_other_classes(name, build):
    model, rows = build(name), build(name).prompt_learner.state_dict()
    first = {"state_dict": {key: rows[key] + 1 for key in rows}}
    with pytest.raises(UsageError, match="other classes and could start from none of it"):
        others = {**first, "meta": {"classnames": [*CLASSES[1:], "moon"]}}
        load_learned(model, others, parameters_only=True)
    load_learned(model, {**first, "meta": {"classnames": CLASSES}}, parameters_only=True)
    learned = dict(model.prompt_learner.named_parameters())
    assert learned and all(torch.equal(value, rows[key] + 1) for key, value in learned.items())
