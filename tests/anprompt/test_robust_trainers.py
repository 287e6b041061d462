"""What the evaluation asks of every trainer: prompts from outside, images and classes apart."""

import pytest
import torch
from evaluation_config import evaluation_cfg

from anprompt.robustness.models import noise_in_training
from anprompt.robustness.texts import noisy_prompts, noisy_tokens, noisy_words
from anprompt.runs.trained import for_evaluation, trainer_class
from clip.model import build_model
from dassl.engine import TRAINER_REGISTRY
from noise.adversarial import pgd

NAMES = sorted(TRAINER_REGISTRY.registered_names())
CLASSNAMES = ["river", "annual crop land", "Sea_or_Lake"]
WORDS = ["river", "annual crop land", "Sea or Lake"]


@pytest.fixture(scope="module")
def clip_model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def trainers(clip_model, tiny_clip_path):
    made = {}

    def make(name):
        if name not in made:
            torch.manual_seed(2)
            made[name] = for_evaluation(
                evaluation_cfg(name, tiny_clip_path), CLASSNAMES, clip_model
            )
            made[name].model.eval()
        return made[name]

    return make


def logits(model, images):
    return model.classify(model.encode(images), model.class_state())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_whole_prompts_without_noise_are_the_trainers_own(name, trainers, clip_model, images):
    trainer = trainers(name)
    cfg = trainer.cfg.clone()
    cfg.defrost()
    template = trainer_class(cfg).open_prompts(cfg)
    assert "{}" in template
    prompts = noisy_prompts(template, WORDS, "char", 0, 1)
    opened = for_evaluation(cfg, prompts, clip_model).model
    opened.prompt_learner.load_state_dict(trainer.model.prompt_learner.state_dict())
    opened.eval()
    for rule, expected in logits(trainer.model, images).items():
        state = opened.class_state()
        torch.testing.assert_close(
            trainer.model.classify(trainer.model.encode(images), state)[rule], expected
        )


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_noise_reaches_the_answer(name, trainers, clip_model, images):
    trainer = trainers(name)
    cfg = trainer.cfg.clone()
    cfg.defrost()
    template = trainer_class(cfg).open_prompts(cfg)
    clean = logits(trainer.model, images)[trainer.model.rule]
    prompts = noisy_prompts(template, WORDS, "char", 5, 1)
    opened = for_evaluation(cfg, prompts, clip_model).model
    opened.prompt_learner.load_state_dict(trainer.model.prompt_learner.state_dict())
    opened.eval()
    assert (logits(opened, images)[opened.rule] - clean).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_answer_is_images_and_classes_put_together(name, trainers, images):
    trainer = trainers(name)
    apart = logits(trainer.model, images)
    assert torch.equal(trainer.model_inference(images), apart[trainer.model.rule])
    rules = trainer.model_inference_rules(images)
    assert rules is None or all(torch.equal(rules[rule], apart[rule]) for rule in apart)


@pytest.mark.parametrize("name", NAMES)
def test_attack_sees_through_the_model(name, trainers, images):
    model = trainers(name).model
    labels = torch.tensor([0, 2])

    def loss(pixels):
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(logits(model, pixels)[model.rule], labels)

    changed = pgd(lambda x: logits(model, x)[model.rule], images, labels, 4 / 255, 1 / 255, 3, None)
    assert loss(changed) > loss(images)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_noise_on_learned_tokens_comes_and_goes(name, trainers, images):
    model = trainers(name).model
    for parameter in model.prompt_learner.parameters():  # some start at zero: no spread, no noise
        parameter.add_(0.02 * torch.randn_like(parameter))
    model.eval()
    tokens = model.prompt_learner.learned_tokens()
    clean = logits(model, images)[model.rule]
    with noisy_tokens(model.prompt_learner, 1.0, 1):
        noisy = logits(model, images)[model.rule]
    assert torch.equal(logits(model, images)[model.rule], clean)
    assert torch.equal(noisy, clean) != bool(tokens)


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


def test_long_prompts_still_fit(trainers, clip_model, tiny_clip_path):
    sentence = "a very long sentence about the class " * 12
    descriptions = {name: [sentence] for name in WORDS}
    cfg = evaluation_cfg("CoOp", tiny_clip_path)
    cfg.TRAINER.COOP.N_CTX = 16
    template = trainer_class(cfg).open_prompts(cfg)
    prompts = noisy_prompts(template, WORDS, "description", 5, 1, descriptions)
    for_evaluation(cfg, prompts, clip_model)  # would raise on more than 77 tokens


def test_what_training_met_is_known(tiny_clip_path):
    cfg = evaluation_cfg("ANPrompt", tiny_clip_path)
    cfg.TRAINER.ANPROMPT.NOISE.SEED = 3
    cfg.INPUT.TRANSFORMS = ["random_flip", "colorjitter", "normalize"]
    assert noise_in_training(cfg) == {
        "text_kinds": ["char", "word", "template"],
        "image_kinds": ["brightness", "contrast"],
        "seeds": [3],
    }
    cfg.TRAINER.ANPROMPT.NOISE.WEIGHT = 0.0
    assert noise_in_training(cfg)["text_kinds"] == []
    assert noise_in_training(evaluation_cfg("CoOp", tiny_clip_path))["text_kinds"] == []
    met = noise_in_training(evaluation_cfg("PromptSRC", tiny_clip_path))
    assert met["text_kinds"] == ["template"] and met["seeds"] == []  # its teacher's sixty phrasings
