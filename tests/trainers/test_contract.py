"""What every registered method must do; a new one is tested by being registered.

python -m pytest -q tests/trainers/test_contract.py -k MyMethod
"""

import copy
import json

import pytest
import torch
from inputs import check_resuming
from test_golden import golden_cfg

import trainers  # noqa: F401  (registers them)
from anprompt.robustness.models import noise_in_training
from anprompt.robustness.texts import Pools, noisy_prompts, noisy_tokens, noisy_words
from anprompt.runs.deploy import Deployed
from anprompt.runs.predictor import Predictor
from anprompt.runs.trained import checkpoint_path, read_learned, trained_from
from clip.model import build_model
from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import load_checkpoint
from noise.adversarial import pgd
from noise.cells import Cell
from trainers.base import ClassPrompts, TrainingBatch, load_learned

pytestmark = pytest.mark.slow

NAMES = sorted(
    name
    for name in TRAINER_REGISTRY.registered_names()
    if TRAINER_REGISTRY.get(name).task == "classification"  # others: test_anomaly_contract.py
)
LEARNING = [name for name in NAMES if TRAINER_REGISTRY.get(name).learns]
CLASSNAMES = ["river", "annual crop land", "Sea_or_Lake"]
WORDS = ["river", "annual crop land", "Sea or Lake"]


def method_cfg(name, clip_path="", data="", output=""):
    """Defaults in fp32 for a method on the tiny CLIP, whose images have 64 pixels."""
    cfg = golden_cfg({}, name, clip_path, data, output)
    cfg.TRAINER.COOP.CTX_INIT = "a photo of a"
    return cfg


def logits(model, images):
    return model.classify(model.encode(images), model.class_state())


# From values: no data set, no optimiser, no run ------------------------------------------------


@pytest.fixture(scope="module")
def clip_model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def built(clip_model, tiny_clip_path):
    """A method's model in evaluation mode, as `TrainedModel` with learned tensors of its own."""
    made = {}

    def make(name):
        if name not in made:
            torch.manual_seed(2)
            cfg = method_cfg(name, tiny_clip_path)
            cfg.DATASET.SUBSAMPLE_CLASSES = "all"
            untrained = trained_from(cfg, CLASSNAMES, clip_model, {})
            learned = {  # some start at zero: no spread, no noise
                key: x + 0.02 * torch.randn_like(x) if x.is_floating_point() else x
                for key, x in untrained.model.prompt_learner.state_dict().items()
            }
            checkpoint = {"state_dict": learned, "meta": {}} if learned else {}
            made[name] = trained_from(cfg, CLASSNAMES, clip_model, checkpoint)
        return made[name]

    return make


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_is_built_from_values(name, built, images):
    model = built(name).model
    assert "{}" in model.prompts.template
    assert list(model.prompts.classnames) == WORDS
    assert model(images).shape == (2, len(WORDS))
    assert TRAINER_REGISTRY.get(name).learns == bool(list(model.prompt_learner.parameters()))
    assert not any(p.requires_grad for p in model.clip.parameters())
    assert set(logits(model, images)) == set(model.rules)
    assert model.rule in model.rules


@pytest.mark.parametrize("name", LEARNING)
def test_terms_add_up_to_the_loss(name, built, images):
    trained = built(name)
    model = copy.deepcopy(trained.model).train()
    state = torch.get_rng_state()
    model.prepare_training()
    assert torch.equal(torch.get_rng_state(), state), "a resumed run would draw other numbers"
    loss = model.loss(TrainingBatch(images, torch.tensor([0, 2])))
    assert loss.total.dim() == 0 and loss.total.requires_grad
    assert loss.logits.shape == (2, len(WORDS))
    assert loss.terms and all(term.dim() == 0 for term in loss.terms.values())
    torch.testing.assert_close(sum(loss.terms.values()), loss.total)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_same_texts_give_the_same_answers(name, built, images):
    trained = built(name)
    texts = noisy_prompts(trained.model.prompts.template, WORDS, Cell("text", "char", 0, 1))
    state = trained.with_texts(texts).class_state()
    for rule, expected in logits(trained.model, images).items():
        given = trained.model.classify(trained.model.encode(images), state)[rule]
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_noise_in_texts_reaches_the_answer(name, built, images):
    trained = built(name)
    clean = logits(trained.model, images)[trained.model.rule]
    texts = noisy_prompts(trained.model.prompts.template, WORDS, Cell("text", "char", 5, 1))
    noisy = trained.with_texts(texts)
    apart = (logits(noisy, images)[noisy.rule] - clean).abs().max()
    assert apart > 1e-3 if noisy.reads_texts else apart == 0
    braces = trained.with_texts([f"{text} {{a}} {{}}" for text in texts])
    assert logits(braces, images)[braces.rule].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_answer_is_images_and_classes_put_together(name, built, images):
    model = built(name).model
    apart = logits(model, images)
    assert torch.equal(model(images), apart[model.rule])
    rules = model.inference_rules(images)
    assert (rules is None) == (len(model.rules) == 1)
    assert rules is None or all(torch.equal(rules[rule], apart[rule]) for rule in apart)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_is_deployed_answers_alike(name, built, images):
    """With changes merged into weights, and without the text tower where classes are fixed."""
    trained = built(name)
    expected = trained.model(images)
    torch.testing.assert_close(trained.model.merged()(images), expected, atol=2e-3, rtol=1e-4)
    if not isinstance(trained.model.class_state(), torch.Tensor):
        with pytest.raises(UsageError, match="depend on the image"):
            Deployed(trained)
        return
    deployed = Deployed(trained)(images)
    torch.testing.assert_close(deployed, expected.softmax(dim=-1), atol=1e-4, rtol=0)
    assert torch.equal(trained.model(images), expected)


@pytest.mark.parametrize("name", NAMES)
def test_attack_sees_through_the_model(name, built, images):
    model = built(name).model
    labels = torch.tensor([0, 2])

    def loss(pixels):
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(logits(model, pixels)[model.rule], labels)

    changed = pgd(
        lambda x: logits(model, x)[model.rule], images, labels, eps=4 / 255, step=1 / 255, steps=3
    )
    assert loss(changed) > loss(images)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_noise_on_learned_tokens_comes_and_goes(name, built, images):
    model = built(name).model
    tokens = model.prompt_learner.learned_tokens()
    clean = logits(model, images)[model.rule]
    with noisy_tokens(model.prompt_learner, 1.0, 1):
        noisy = logits(model, images)[model.rule]
    assert torch.equal(logits(model, images)[model.rule], clean)
    assert torch.equal(noisy, clean) != bool(tokens)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_beyond_what_clip_reads_is_one_line(name, clip_model, tiny_clip_path):
    long = "a very long description of it " * 20
    with pytest.raises(UsageError, match="class 'a very long description.*tokens.*CLIP reads 77"):
        trained_from(method_cfg(name, tiny_clip_path), ["river", long], clip_model, {})


@pytest.mark.parametrize("name", LEARNING)
def test_damaged_tensors_are_refused(name, built):
    trained = built(name)
    for damage in (float("nan"), float("inf")):
        checkpoint = copy.deepcopy(trained.checkpoint)
        first = next(iter(checkpoint["state_dict"].values()))
        first.view(-1)[0] = damage
        with pytest.raises(UsageError, match="not finite"):
            load_learned(trained.model, checkpoint)


@torch.no_grad()
def test_noise_on_words_comes_and_goes_and_spares_the_ends(clip_model):
    weight = clip_model.token_embedding.weight
    before = weight.clone()
    with noisy_words(clip_model, 0.5, 1):
        moved = (weight != before).any(dim=1)
        spread = ((weight - before)[1:1000].std(dim=1) / before[1:1000].std(dim=1)).mean()
    assert torch.equal(weight, before)
    assert not moved[0] and not moved[-1] and not moved[-2] and moved[1:-2].all()
    assert 0.45 < spread < 0.55


def test_long_prompts_still_fit(clip_model, tiny_clip_path):
    sentence = "a very long sentence about the class " * 12
    descriptions = {name: [sentence] for name in WORDS}
    cfg = method_cfg("CoOp", tiny_clip_path)
    cfg.TRAINER.COOP.N_CTX, cfg.TRAINER.COOP.CTX_INIT = 16, ""
    trained = trained_from(cfg, CLASSNAMES, clip_model, {})
    cell, pools = Cell("text", "description", 5, 1), Pools(descriptions)
    prompts = noisy_prompts(trained.model.prompts.template, WORDS, cell, pools)
    assert trained.with_texts(prompts).prompts.texts == tuple(prompts)


def test_what_training_met_is_known(tiny_clip_path):
    cfg = method_cfg("ANPrompt", tiny_clip_path)
    cfg.TRAINER.ANPROMPT.NOISE.SEED = 3
    cfg.INPUT.TRANSFORMS = ["random_flip", "colorjitter", "normalize"]
    assert noise_in_training(cfg) == {
        "text_kinds": ["char", "word", "template"],
        "image_kinds": ["brightness", "contrast"],
        "seeds": [3],
    }
    cfg.TRAINER.ANPROMPT.NOISE.WEIGHT = 0.0
    assert noise_in_training(cfg)["text_kinds"] == []
    assert noise_in_training(method_cfg("CoOp", tiny_clip_path))["text_kinds"] == []
    met = noise_in_training(method_cfg("PromptSRC", tiny_clip_path))
    assert met["text_kinds"] == ["template"] and met["seeds"] == []  # its teacher's sixty phrasings


# In a run --------------------------------------------------------------------------------------


@pytest.fixture
def make_trainer(tiny_clip_path, fake_eurosat, tmp_path):
    def make(name, folder="run", **changes):
        cfg = golden_cfg({}, name, tiny_clip_path, fake_eurosat, tmp_path / folder)
        cfg.DATASET.NUM_SHOTS = 2
        cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
        cfg.OPTIM.MAX_EPOCH = 2
        cfg.OPTIM.LR = 0.01
        cfg.TRAINER.MMRL.REP_DIM = 64  # EuroSAT's own is as wide as the tiny CLIP is large
        for key, value in changes.items():
            node, leaf = cfg, key.split("__")
            for section in leaf[:-1]:
                node = node[section]
            node[leaf[-1]] = value
        cfg.freeze()
        torch.manual_seed(1)
        return build_trainer(cfg)

    return make


def take_steps(trainer, steps: int = 2) -> list[dict]:
    trainer.prepare_training()
    torch.manual_seed(2)  # the order of images
    trainer.set_model_mode("train")
    trainer.num_batches, trainer.epoch = steps + 1, 0
    summaries = []
    for batch_idx, batch in enumerate(trainer.train_loader_x):
        trainer.batch_idx = batch_idx
        summary = trainer.forward_backward(batch)
        summaries.append({key: float(value) for key, value in summary.items()})
        if batch_idx + 1 == steps:
            break
    return summaries


def answers(trainer):
    """Logits of a few test images."""
    trainer.set_model_mode("eval")
    batch = next(iter(trainer.test_loader))
    with torch.no_grad():
        return trainer.model_inference(trainer.parse_batch_test(batch)[0][:6])


def frozen_state(trainer) -> dict:
    learned = {id(p) for p in trainer.model.prompt_learner.parameters()}
    return {
        name: parameter.detach().clone()
        for name, parameter in trainer.model.named_parameters()
        if id(parameter) not in learned
    }


@pytest.mark.parametrize("name", LEARNING)
def test_only_the_learner_changes(name, make_trainer):
    trainer = make_trainer(name)
    before = frozen_state(trainer)
    learned = copy.deepcopy(list(trainer.model.prompt_learner.parameters()))
    summaries = take_steps(trainer)
    values = [value for summary in summaries for value in summary.values()]
    assert torch.tensor(values).isfinite().all()
    assert {"loss", "acc"} <= set(summaries[0])
    assert before, "CLIP's own parameters are part of the model"
    for parameter_name, parameter in frozen_state(trainer).items():
        assert torch.equal(parameter, before[parameter_name]), parameter_name
    assert not any(p.requires_grad for p in trainer.model.clip.parameters())
    for old, new in zip(learned, trainer.model.prompt_learner.parameters(), strict=True):
        assert new.dtype == torch.float32
        assert not torch.equal(old, new)


@pytest.mark.parametrize("name", LEARNING)
def test_one_seed_repeats_bit_for_bit(name, make_trainer):
    first, second = make_trainer(name, "a"), make_trainer(name, "b")
    assert take_steps(first) == take_steps(second)
    assert torch.equal(answers(first), answers(second))


@pytest.mark.parametrize("name", LEARNING)
def test_saved_and_reloaded_gives_the_same_logits(name, make_trainer, tmp_path):
    trained = make_trainer(name)
    take_steps(trained)
    trained.save_model(0, str(tmp_path / "saved"))
    expected = answers(trained)
    fresh = make_trainer(name, "fresh")
    assert not torch.equal(answers(fresh), expected)
    fresh.load_model(str(tmp_path / "saved"), epoch=1)
    assert torch.equal(answers(fresh), expected)
    # Learned tensors only: kilobytes, not a copy of CLIP.
    folder = tmp_path / "saved" / trained.model_name
    clip_bytes = sum(p.nbytes for p in trained.model.clip.parameters())
    assert sum(file.stat().st_size for file in folder.iterdir()) < clip_bytes / 2

    # The same file without a trainer around the model.
    file = folder / "model.pth.tar-1"
    checkpoint = load_checkpoint(str(file))
    assert checkpoint["meta"]["classnames"] == trained.dm.dataset.classnames
    prompts = ClassPrompts(trained.fixed_template(trained.cfg), trained.dm.dataset.classnames)
    model = type(trained).build(trained.cfg, trained.model.clip, prompts)
    load_learned(model, checkpoint, where=str(file))
    fresh.model = model.eval()
    assert torch.equal(answers(fresh), expected)


@pytest.mark.parametrize("name", LEARNING)
def test_interrupted_and_resumed_equals_undisturbed(name, make_trainer):
    check_resuming(make_trainer, name)


@pytest.mark.parametrize("name", LEARNING)
def test_evaluation_never_answers_from_before_training(name, make_trainer):
    trainer = make_trainer(name)
    before = answers(trainer)
    take_steps(trainer)
    assert not torch.equal(answers(trainer), before)


@pytest.mark.parametrize("name", NAMES)
def test_train_ends_in_results(name, make_trainer, tmp_path):
    trainer = make_trainer(name, OPTIM__MAX_EPOCH=1)
    trainer.train()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["trainer"] == name
    assert results["dataset"] == "EuroSAT"
    assert results["num_test"] == 50
    assert 0 <= results["accuracy"] <= 100
    if "rules" in results and results["rules"]:
        assert results["rules"][results["headline_rule"]]["accuracy"] == results["accuracy"]
        assert results["headline_rule"] == trainer.model.rule
        assert trainer.model.rule in ("mix", "searched")  # classes trained on
    assert_answers_other_classes(trainer)


def assert_answers_other_classes(trainer):
    """A model serves other classes, under a rule that it has; ``predict --classes`` asks so."""
    cfg, own = trainer.cfg, trainer.dm.dataset.classnames
    path = checkpoint_path(cfg)
    checkpoint = read_learned(cfg, path) if path else {}
    trained = trained_from(cfg, own, trainer.model.clip, checkpoint, path)
    predictor = Predictor(trained, own, own, trained.model.rule)
    image = torch.zeros(1, 3, *trainer.cfg.INPUT.SIZE)
    assert predictor.rule == trainer.model.rule
    assert torch.isfinite(predictor.probabilities(image)).all()
    predictor.set_classes(["lake", "river", "sea"])
    assert predictor.rule in predictor.trained.model.rules
    assert predictor.probabilities(image).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_bf16_runs_on_cpu(name, make_trainer):
    method = TRAINER_REGISTRY.get(name).method
    trainer = make_trainer(name, **{f"TRAINER__{method}__PREC": "bf16"})
    assert trainer.model.clip.dtype == torch.bfloat16
    losses = [summary["loss"] for summary in take_steps(trainer)]
    assert torch.tensor(losses).isfinite().all()


@pytest.mark.parametrize("name", LEARNING)
def test_unknown_precision_is_refused(name, make_trainer):
    method = TRAINER_REGISTRY.get(name).method
    with pytest.raises(ValueError, match="PREC .fp8.: takes one of fp32"):
        make_trainer(name, **{f"TRAINER__{method}__PREC": "fp8"})
