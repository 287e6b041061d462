"""Every setting of every trainer: nonsense is refused; what is accepted trains.

No list of settings stands here: they are walked through by their descriptions.
"""

import math

import pytest
import torch
from inputs import random_clip_state_dict

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

pytestmark = pytest.mark.slow

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


def alone(cfg, name: str) -> tuple:
    """Return a configuration with one setting of ``cfg``, the node it is in, and its last name."""
    *parents, leaf = name.split(".")
    value = cfg
    for part in (*parents, leaf):
        value = value[part]
    whole = node = type(cfg)()
    for part in parents:
        node[part] = type(cfg)()
        node = node[part]
    node[leaf] = value
    return whole, node, leaf


def test_nonsense_is_refused_in_one_line():
    """Settings are checked one by one, so each is tried alone, and each description of it once."""
    walked: dict[str, list[Setting]] = {}
    tried = refused = 0
    for trainer in ("", *TRAINERS):
        cfg = default_cfg(trainer)
        check_settings(cfg)
        for name, setting in settings_of(trainer).items():
            if setting in walked.setdefault(name, []):
                continue
            walked[name].append(setting)
            for value in NUMBERS + WRONG + TEXTS:
                is_typed = any(value is text for text in TEXTS)
                tried += 1
                refused += was_refused(cfg, name, setting, value, is_typed)
    assert len(walked) > 200 and tried > 35 * len(walked) and refused > 0.75 * tried


def was_refused(cfg, name: str, setting: Setting, value, is_typed: bool) -> bool:
    """Return whether a value, or a text on the command line, is refused in a line that names it.

    What is taken must be sane.
    """
    whole, node, leaf = alone(cfg, name)
    try:
        if is_typed:
            whole.merge_from_list([name, value])
        else:
            node[leaf] = value
        check_settings(whole)
    except UsageError as error:
        assert name in str(error) and "\n" not in str(error) and len(str(error)) < 900  # noqa: PT017
        return True
    taken = node[leaf]
    assert is_sane(taken, setting), f"{name} {value!r} is accepted as {taken!r}"
    return False


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
def clip_model():
    """As many blocks as the methods' layers need, and all else as small as it can be."""
    size = dict(vw=64, vl=12, patch=32, image=64, tw=64, tl=12, embed=64)
    return build_model(random_clip_state_dict(size)).requires_grad_(False)


# Of Dassl's settings those that change the step of a model: the same code for all methods, and
# tried with two of them.
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
        if not (node_of(name) or trainer in FAST and name.startswith(STEPPING)):
            continue
        for value in edges(setting):
            cfg = default_cfg(trainer)
            cfg.DATASET.NAME = {"anomaly": "DefectTiles"}.get(trainer_class.task, "EuroSAT")
            cfg.OPTIM.NAME, cfg.OPTIM.LR_SCHEDULER = "sgd", "cosine"
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
    assert tried > (40 if trainer in FAST else 4)


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
    return [loss.item()]


def test_the_reference_is_current():
    command = "python -m anprompt.runs.settings_reference"
    assert PATH.read_text(encoding="utf-8") == reference(), f"out of date; run {command}"
