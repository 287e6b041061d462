"""DePT over its hosts, written a second time from the paper's equations."""

import pytest
import torch
import torch.nn.functional as F
from test_contract import method_cfg

from clip.model import build_model
from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY
from trainers.base import ClassPrompts, TrainingBatch, load_learned
from trainers.dept import DecoupledCLIP, DecoupledTrainer

pytestmark = pytest.mark.slow

CLASSES = ["river", "annual crop land", "sea or lake"]
HOSTS = {"DePTCoOp": "CoOp", "DePTKgCoOp": "KgCoOp", "DePTMaPLe": "MaPLe"}


@pytest.fixture(scope="module")
def clip_model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False).eval()


@pytest.fixture
def build(clip_model, tiny_clip_path):
    def make(name, classes=CLASSES, **settings):
        cfg = method_cfg(name, tiny_clip_path)
        for key, value in settings.items():
            cfg.TRAINER.COOP[key] = value
        method = TRAINER_REGISTRY.get(name)
        torch.manual_seed(3)
        model = method.build(cfg, clip_model, ClassPrompts(method.fixed_template(cfg), classes))
        if name in HOSTS:
            with torch.no_grad():
                for parameter in model.prompt_learner.new_layers():
                    parameter += 0.1 * torch.randn_like(parameter)
        return model

    return make


@pytest.fixture
def images():
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def head_logits(learner, features, film):
    shifted = film.scale * features + film.bias
    weight, bias = learner.linear_probe_proj.weight, learner.linear_probe_proj.bias
    return torch.stack([(shifted * row).sum(dim=1) for row in weight], dim=1) + bias


@pytest.mark.parametrize("name", HOSTS)
def test_loss_is_the_hosts_and_the_heads(name, build, images):
    model, host = build(name).train(), build(HOSTS[name]).train()
    labels = torch.tensor([0, 2, 1, 2])
    for each in (model, host):
        each.prepare_training()
    host.prompt_learner.load_state_dict(model.prompt_learner.prompt_learner.state_dict())
    loss, expected = (each.loss(TrainingBatch(images, labels)) for each in (model, host))
    learner = model.prompt_learner
    text, image = host.raw_text_features(), host.raw_image_features(images)
    assert (image.norm(dim=1) - 1).abs().min() > 0.1, "not normalised"
    logits = torch.cat([
        head_logits(learner, text[labels], learner.film_lp_text),
        head_logits(learner, image, learner.film_lp_img),
    ])  # fmt: skip
    head = F.cross_entropy(logits, torch.cat([labels, labels]))
    others = sum(value for key, value in expected.terms.items() if key != "ce")
    total = 0.3 * expected.terms["ce"] + 0.7 * head + others
    assert loss.total.item() == pytest.approx(total.item(), abs=1e-4)
    assert ("text" in loss.terms) == (name == "DePTKgCoOp")
    loss.total.backward()
    total.backward()
    for key, parameter in host.prompt_learner.named_parameters():
        own = dict(learner.prompt_learner.named_parameters())[key]
        # The head's text features reach the prompts, too.
        assert own.grad is not None
        torch.testing.assert_close(own.grad, parameter.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", HOSTS)
@torch.no_grad()
def test_base_classes_have_the_head_and_new_ones_the_host(name, build, images):
    model, host = build(name).eval(), build(HOSTS[name]).eval()
    learner = model.prompt_learner
    own = head_logits(learner, host.raw_image_features(images), learner.film_lp_img)
    expected = 0.3 * host(images) + 0.7 * own
    torch.testing.assert_close(model(images), expected, atol=1e-3, rtol=1e-4)

    state = {key: value.clone() for key, value in learner.state_dict().items()}
    checkpoint = {"state_dict": state, "meta": {"classnames": CLASSES}}
    others = ["wood", "river"]
    new = build(name, others).eval()
    load_learned(new, checkpoint)
    assert torch.equal(new(images), build(HOSTS[name], others).eval()(images))
    some = build(name, [CLASSES[2], CLASSES[0]]).eval()
    load_learned(some, checkpoint)
    torch.testing.assert_close(some(images), model(images)[:, [2, 0]], atol=1e-3, rtol=1e-4)
    load_learned(some, {"state_dict": state, "meta": {"classnames": ["a", "b", "c"]}})
    assert not some.knows_classes


def test_towers_run_once_a_step(build, images, clip_model):
    model = build("DePTKgCoOp").train()
    model.prepare_training()
    runs = []
    hooks = [
        clip_model.visual.register_forward_hook(lambda *_: runs.append("image")),
        clip_model.ln_final.register_forward_hook(lambda *_: runs.append("text")),
    ]
    model.loss(TrainingBatch(images, torch.tensor([0, 2, 1, 2])))
    for hook in hooks:
        hook.remove()
    assert sorted(runs) == ["image", "text"]
    assert "raw_text_features" not in vars(model.host)


def test_new_layers_learn_faster(build):
    method = TRAINER_REGISTRY.get("DePTCoOp")
    cfg = method_cfg("DePTCoOp")
    cfg.OPTIM.LR = 0.0035
    model = build("DePTCoOp")
    trainer = object.__new__(method)
    trainer.model, trainer.cfg = model, cfg
    prompts, layers = trainer.parameter_groups()
    assert [p.shape for p in prompts["params"]] == [(4, 128)]
    assert layers["lr"] == pytest.approx(0.02275) and len(layers["params"]) == 6
    assert {id(p) for group in (prompts, layers) for p in group["params"]} == {
        id(p) for p in model.prompt_learner.parameters()
    }


def test_a_hosts_own_rates_are_kept(build):
    class Slower(TRAINER_REGISTRY.get("CoOp")):
        def parameter_groups(self):
            return [{"params": [self.model.prompt_learner.ctx], "lr": 0.5}]

    class Mine(DecoupledTrainer, Slower):
        pass

    trainer = object.__new__(Mine)
    trainer.model, trainer.cfg = build("DePTCoOp"), method_cfg("DePTCoOp")
    host, layers = trainer.parameter_groups()
    assert host["lr"] == 0.5 and len(host["params"]) == 1 and len(layers["params"]) == 6
    assert isinstance(trainer.model, DecoupledCLIP)


def test_a_host_without_features_that_are_not_normalised_is_refused(clip_model, tiny_clip_path):
    class Mine(DecoupledTrainer, TRAINER_REGISTRY.get("TCP")):
        pass

    cfg = method_cfg("TCP", tiny_clip_path)
    with pytest.raises(UsageError, match="give it raw_text_features.. in place of text_features"):
        Mine.build(cfg, clip_model, ClassPrompts(Mine.fixed_template(cfg), CLASSES))


def test_contexts_of_each_class_are_refused(build):
    with pytest.raises(UsageError, match="set TRAINER.COOP.CSC False"):
        build("DePTCoOp", CSC=True, CTX_INIT="")


def test_first_weights_of_other_classes_are_the_hosts_alone(build, caplog):
    source, model = build("DePTCoOp"), build("DePTCoOp")
    with torch.no_grad():
        for parameter in source.prompt_learner.parameters():
            parameter += 1
    head = model.prompt_learner.linear_probe_proj.weight.clone()
    known = {"classnames": ["moon", *CLASSES[1:]]}
    checkpoint = {"state_dict": source.prompt_learner.state_dict(), "meta": known}
    with caplog.at_level("INFO"):
        load_learned(model, checkpoint, parameters_only=True)
    assert "of other classes; starts anew: linear_probe_proj.weight" in caplog.text
    assert torch.equal(model.prompt_learner.linear_probe_proj.weight, head)
    assert model.knows_classes  # they are those of the training that begins
    ours, theirs = (m.prompt_learner.prompt_learner.ctx for m in (model, source))
    assert torch.equal(ours, theirs)


def test_frozen_hosts_answer_from_kept_features(build):
    assert [build(name).is_image_tower_frozen for name in HOSTS] == [True, True, False]
