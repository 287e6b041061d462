"""Every setting of every trainer: nonsense is refused; what is accepted trains.

No list of settings stands here: they are walked through by their descriptions.
"""

import math

import pytest
import torch

import trainers  # noqa: F401  (registers them)
from anprompt.runs.config import default_cfg, node_of
from anprompt.runs.settings_reference import PATH, reference
from clip.model import build_model
from common.errors import UsageError
from common.settings import Setting, check_settings, describe, leaves
from dassl.config import check_config
from dassl.engine import TRAINER_REGISTRY
from dassl.optim import build_lr_scheduler, build_optimizer
from trainers.base import ClassPrompts, TrainingBatch

TRAINERS = sorted(
    name
    for name in TRAINER_REGISTRY.registered_names()
    if TRAINER_REGISTRY.get(name).__module__.startswith("trainers.")
)
NAMES = ["river", "annual crop land", "forest"]
NUMBERS = [math.nan, math.inf, -math.inf, -1e10, -1, -0.5, 0, 1e10, 10**400, -(10**5000)]
WRONG = [None, "word", "", b"x", [], [[]], [math.nan], {}, {"a": math.nan}, {1: 1}, object(), 1j]
WRONG += [True, "x" * 10**5, "a\0b", [1] * 2000, (0,), [-1, -1, -1], [0.5, 0.25]]
TEXTS = [
    "nan",
    "1e999",
    "-1e999",
    "None",
    "[",
    "(" * 500,
    "[nan]",
    "9" * 5000,
    "{'a': 1e999}",
    "-1",
]


def settings_of(trainer: str) -> dict[str, Setting]:
    cfg = default_cfg(trainer)
    found = {name: describe(name) for name, _ in leaves(cfg)}
    undescribed = [name for name, setting in found.items() if setting is None]
    assert not undescribed, f"not described: {undescribed}"
    return found


def is_sane(value, setting: Setting) -> bool:
    """Whether a value is within the described range, judged without the code under test."""
    if value is None:
        return setting.optional
    if isinstance(value, dict):
        return setting.table and all(is_sane(item, setting) for item in value.values())
    if isinstance(value, (list, tuple)):
        return setting.is_list and all(is_sane(item, setting) for item in value)
    if setting.choices:
        return value in setting.choices and type(value) is setting.kind
    if isinstance(value, str):
        return setting.kind is str and len(value) < 5000 and "\0" not in value
    if isinstance(value, bool) or setting.kind is bool:
        return isinstance(value, bool) and setting.kind is bool
    if not isinstance(value, (int, float)) or setting.kind not in (int, float):
        return False
    low = [-math.inf if bound is None else bound for bound in (setting.ge, setting.gt)]
    high = [math.inf if bound is None else bound for bound in (setting.le, setting.lt)]
    return abs(value) < (1e17 if setting.kind is int else 1e300) and max(low) <= value <= min(high)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_nonsense_is_refused_in_one_line(trainer):
    cfg = default_cfg(trainer)
    check_config(cfg)
    tried = refused = 0
    for name, setting in settings_of(trainer).items():
        *parents, leaf = name.split(".")
        node = cfg
        for part in parents:
            node = node[part]
        original = node[leaf]
        for value in NUMBERS + WRONG:
            tried += 1
            node[leaf] = value
            try:
                check_settings(cfg)
                assert is_sane(value, setting), f"{name} {value!r} is accepted"
            except UsageError as error:
                refused += 1
                assert name in str(error) and len(str(error)) < 900  # noqa: PT017
        node[leaf] = original
        for text in TEXTS:
            tried += 1
            given = cfg.clone()
            try:
                given.merge_from_list([name, text])
            except UsageError as error:
                refused += 1
                assert name in str(error) and "\n" not in str(error)  # noqa: PT017
            else:
                taken = dict(leaves(given))[name]
                assert is_sane(taken, setting), f"{name} {text!r} is accepted as {taken!r}"
    assert tried > 2000 and refused > 0.75 * tried


@pytest.mark.parametrize(
    ("trainer", "option", "value"),
    [
        ("ANPrompt", "OPTIM.MOMENTUM", "nan"),
        ("ANPrompt", "OPTIM.LR", "1e999"),
        ("ANPrompt", "OPTIM.WEIGHT_DECAY", "1e999"),
        ("ANPrompt", "OPTIM.WARMUP_EPOCH", "1000000000"),
        ("ANPrompt", "OPTIM.WARMUP_CONS_LR", "-1"),
        ("ANPrompt", "OPTIM.WARMUP_CONS_LR", "1e999"),
        ("ANPrompt", "OPTIM.MAX_EPOCH", "0"),
        ("ANPrompt", "INPUT.PIXEL_STD", "[-1, -1, -1]"),
        ("ANPrompt", "INPUT.PIXEL_STD", "[0, 0, 0]"),
        ("ANPrompt", "INPUT.PIXEL_STD", "1e999"),
        ("ANPrompt", "INPUT.PIXEL_MEAN", "[0.5, 0.5]"),
        ("ANPrompt", "INPUT.RRCROP_SCALE", "(1.0, 0.5)"),
        ("ANPrompt", "INPUT.TRANSFORMS", "['normalise']"),
        ("ANPrompt", "TRAINER.ANPROMPT.ALPHA", "-1"),
        ("ANPrompt", "TRAINER.ANPROMPT.ALPHA", "1e10"),
        ("ANPrompt", "TRAINER.ANPROMPT.WA_WEIGHT", "-1e10"),
        ("ANPrompt", "TRAINER.ANPROMPT.NOISE.RATE", "1.5"),
        ("ANPrompt", "TRAINER.ANPROMPT.NOISE.SEED", "-1"),
        ("ANPrompt", "TRAINER.ANPROMPT.NOISE.KINDS", "['rot13']"),
        ("ANPrompt", "TRAINER.ANPROMPT.NOISE.KINDS", "[]"),
        ("ANPrompt", "TRAINER.ANPROMPT.N_TOKENS", "0"),
        ("ANPrompt", "TRAINER.ANPROMPT.N_TOKENS", "-1"),
        ("ANPrompt", "TRAINER.ANPROMPT.LAYERS", "[6, 8]"),
        ("ANPrompt", "TRAINER.ANPROMPT.LAYERS", "[]"),
        ("ANPrompt", "TRAINER.ANPROMPT.SIM_WEIGHT_BY_DATASET.EuroSAT", "nan"),
        ("CoOp", "TRAINER.COOP.N_CTX", "90"),
        ("CoOp", "TRAINER.COOP.CSC", "1"),
        ("PromptSRC", "TRAINER.PROMPTSRC.GPA_STD", "0"),
        ("MMRLpp", "TRAINER.MMRLpp.BETA_BY_DATASET.default", "2"),
    ],
)
def test_known_nonsense(trainer, option, value):
    with pytest.raises(UsageError, match=option.rpartition(".")[0]):
        cfg = default_cfg(trainer)
        cfg.merge_from_list([option, value])
        check_config(cfg)


def edges(setting: Setting) -> list:
    """Values at the ends of what a setting takes."""
    if setting.table or setting.kind is str and not setting.choices:
        return []
    if setting.choices:
        values = list(setting.choices)
    elif setting.kind is bool:
        values = [True, False]
    else:
        kind = setting.kind
        step = 1 if kind is int else 1e-6
        low = [setting.ge, None if setting.gt is None else setting.gt + step]
        high = [setting.le, None if setting.lt is None else setting.lt - step]
        values = [kind(bound) for bound in low + high if bound is not None]
    if not setting.is_list:
        return values
    lists = [list(setting.default)[:1], list(setting.default)]
    return [value for value in lists if not setting.problem(value)]


@pytest.fixture(scope="module")
def clip_model(tiny_clip_state_dict):
    return build_model(tiny_clip_state_dict).requires_grad_(False)


# Of Dassl's settings those that change the step of a model.
STEPPING = ("OPTIM", "INPUT.PIXEL")


LEARNING = [name for name in TRAINERS if TRAINER_REGISTRY.get(name).learns]
FAST = ("ANPrompt", "CoOp")


@pytest.mark.parametrize(
    "trainer",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in LEARNING],
)
def test_accepted_edges_take_a_finite_step(trainer, clip_model):
    trainer_class = TRAINER_REGISTRY.get(trainer)
    image = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tried = 0
    for name, setting in settings_of(trainer).items():
        if not (node_of(name) or name.startswith(STEPPING)):
            continue
        for value in edges(setting):
            cfg = default_cfg(trainer)
            cfg.DATASET.NAME, cfg.OPTIM.NAME, cfg.OPTIM.LR_SCHEDULER = "EuroSAT", "sgd", "cosine"
            cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.WARMUP_EPOCH = 10**6, 1
            cfg.merge_from_list([name, value])
            try:
                check_config(cfg)
                trainer_class.check_cfg(cfg)
                prompts = ClassPrompts(trainer_class.fixed_template(cfg), NAMES)
                torch.manual_seed(1)
                model = trainer_class.build(cfg, clip_model, prompts)
            except UsageError:
                continue  # it does not go with the others, or with the backbone
            tried += 1
            losses = steps(model, cfg, image)
            assert all(map(math.isfinite, losses)), f"{name} {value!r}: {losses}"
            for parameter in model.prompt_learner.parameters():
                assert parameter.isfinite().all(), f"{name} {value!r}"
    assert tried > 40


def steps(model, cfg, image) -> list[float]:
    """Loss before and after one step, with the learning rate of the first epoch."""
    mean, std = (
        torch.tensor(list(values)) for values in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    )
    batch = TrainingBatch(
        (image - mean[:, None, None]) / std[:, None, None], torch.tensor([0, 1, 2])
    )
    model.prepare_training()
    optimizer = build_optimizer(model.prompt_learner, cfg.OPTIM)
    schedule = build_lr_scheduler(optimizer, cfg.OPTIM)
    loss = model.loss(batch).total
    loss.backward()
    optimizer.step()
    schedule.step()
    return [float(loss)]


def test_the_reference_is_current():
    command = "python -m anprompt.runs.settings_reference"
    assert PATH.read_text(encoding="utf-8") == reference(), f"out of date; run {command}"
