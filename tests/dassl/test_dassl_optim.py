"""Optimisers, and learning rates to the last bit that matters."""

import math
import warnings

import pytest
import torch
from dassl_toy import few
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import UsageError


def optim_cfg(**options):
    cfg = get_cfg_default().OPTIM
    for name, value in options.items():
        cfg[name] = value
    return cfg


def rates(epochs, lrs=(0.002,), **options):
    """Rate of every group in each epoch, and after the last."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in lrs]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, lrs, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=lrs[0])
    schedule = build_lr_scheduler(optimizer, optim_cfg(MAX_EPOCH=epochs, **options))
    seen = []
    for _ in range(epochs + 1):
        assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        seen.append(tuple(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    return [values[0] for values in seen] if len(lrs) == 1 else seen


def family(epochs, lr, **options):
    """The schedule of the CoOp family's configurations."""
    return rates(
        epochs,
        lrs=(lr,),
        LR_SCHEDULER="cosine",
        **{"WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant", "WARMUP_CONS_LR": 1e-5, **options},
    )


@pytest.mark.parametrize("name", ["coop", "coop_ctxv1", "maple", "ivlp", "vpt", "mmrl_reg1"])
def test_rates_of_recorded_upstream_runs(golden, name):
    recorded = golden(name)
    optim = recorded["config"]["OPTIM"]
    by_epoch = {step["epoch"]: step["lr"] for step in recorded["steps"]}
    actual = family(optim["MAX_EPOCH"], optim["LR"])
    for epoch, lr in by_epoch.items():
        assert actual[epoch] == pytest.approx(lr, rel=1e-12)


def test_known_rates():
    assert family(5, 0.0035)[:5] == pytest.approx(
        [1e-5, 0.0035, 0.00316578, 0.00229078, 0.00120922], rel=1e-5
    )
    assert family(50, 0.002)[49] == pytest.approx(7.885e-6, rel=1e-3)
    assert family(20, 0.0025)[19] == pytest.approx(6.118e-5, rel=1e-3)
    assert family(10, 1e-3)[9] == pytest.approx(9.549e-5, rel=1e-3)
    assert family(1, 0.0035)[0] == 1e-5


@few
@given(st.integers(1, 60), st.integers(0, 8), st.floats(1e-6, 1.0))
def test_cosine_after_constant_warm_up(epochs, warmup, lr):
    for epoch, actual in enumerate(family(epochs, lr, WARMUP_EPOCH=warmup)[:epochs]):
        if epoch < warmup:
            assert actual == 1e-5
        else:
            expected = lr * (1 + math.cos(math.pi * (epoch - warmup) / epochs)) / 2
            assert actual == pytest.approx(expected, rel=1e-12)


def test_linear_warm_up():
    actual = family(10, 0.1, WARMUP_EPOCH=4, WARMUP_TYPE="linear", WARMUP_MIN_LR=1e-6)
    assert actual[:5] == pytest.approx([1e-6, 0.025, 0.05, 0.075, 0.1])


def test_recount_off_starts_full_and_changes_as_from_the_warm_up_epoch():
    # What a stepped torch scheduler does whose counter is set to 3 before its first step.
    actual = family(10, 0.1, WARMUP_EPOCH=3, WARMUP_RECOUNT=False)
    cosine = [(1 + math.cos(math.pi * epoch / 10)) / 2 for epoch in range(11)]
    assert actual[3] == pytest.approx(0.1)
    for epoch in range(4, 10):
        assert actual[epoch] == pytest.approx(0.1 * cosine[epoch] / cosine[3])


def test_single_step():
    assert rates(6, (1.0,), LR_SCHEDULER="single_step", STEPSIZE=(2,)) == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001]
    )
    assert rates(3, (1.0,), LR_SCHEDULER="single_step", STEPSIZE=(-1,)) == pytest.approx(
        [1, 1, 1, 0.1]
    )


def test_multi_step():
    assert rates(6, (1.0,), LR_SCHEDULER="multi_step", STEPSIZE=(1, 4)) == pytest.approx(
        [1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    )


def test_groups_keep_their_proportion():
    seen = rates(8, (0.1, 0.01), LR_SCHEDULER="cosine", WARMUP_EPOCH=2, WARMUP_TYPE="linear")
    assert seen[0] == (1e-5, 1e-5)
    for old, new in seen[1:8]:
        assert new == pytest.approx(old / 10)


@few
@given(st.integers(0, 9), st.sampled_from(["cosine", "single_step", "multi_step"]), st.booleans())
def test_schedule_resumes_exactly(stop, name, recount):
    """A new optimiser and schedule that load a state go on as the old ones would have."""
    cfg = optim_cfg(
        LR_SCHEDULER=name,
        STEPSIZE=(3,),
        MAX_EPOCH=10,
        WARMUP_EPOCH=2,
        WARMUP_RECOUNT=recount,
    )

    def make():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        return optimizer, build_lr_scheduler(optimizer, cfg)

    optimizer, schedule = make()
    other_optimizer, other = make()
    for epoch in range(10):
        if epoch == stop:
            other.load_state_dict(schedule.state_dict())
        if epoch >= stop:
            assert other_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
            other_optimizer.step()
            other.step()
        optimizer.step()
        schedule.step()


def test_schedule_state_is_numbers_only():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    state = build_lr_scheduler(optimizer, optim_cfg(LR_SCHEDULER="cosine")).state_dict()
    assert state == {"last_epoch": 0, "base_lrs": [0.1]}
    with pytest.raises(ValueError, match=r"full learning rates are \[0.1, 0.2\], here \[0.1\]"):
        schedule = build_lr_scheduler(optimizer, optim_cfg())
        schedule.load_state_dict({"last_epoch": 1, "base_lrs": [0.1, 0.2]})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"LR_SCHEDULER": "cosin"}, "cosine"),
        ({"WARMUP_TYPE": "linar", "WARMUP_EPOCH": 1}, "linear"),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": 3}, "STEPSIZE"),
        ({"LR_SCHEDULER": "single_step", "STEPSIZE": (1.5,)}, "STEPSIZE"),
    ],
)
def test_wrong_schedules_are_refused(options, named):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(UsageError, match=named):
        build_lr_scheduler(optimizer, optim_cfg(**options))


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": False, "dampening": 0}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999), "amsgrad": False}),
        ("amsgrad", torch.optim.Adam, {"betas": (0.9, 0.999), "amsgrad": True}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.9, "alpha": 0.99}),
        ("radam", torch.optim.RAdam, {"betas": (0.9, 0.999), "decoupled_weight_decay": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8}),
    ],
)
def test_optimisers(name, kind, settings):
    optimizer = build_optimizer(nn.Linear(2, 2), optim_cfg(NAME=name, LR=0.01))
    assert type(optimizer) is kind
    for key, value in {**settings, "lr": 0.01, "weight_decay": 5e-4}.items():
        assert optimizer.param_groups[0][key] == value, key


def test_unknown_optimiser():
    with pytest.raises(UsageError, match="adamw"):
        build_optimizer(nn.Linear(2, 2), optim_cfg(NAME="adamW2"))


def test_staged_rates_are_refused():
    """Their users adapt a whole network; to train all layers alike would be wrong."""
    cfg = optim_cfg()
    cfg.STAGED_LR = True
    with pytest.raises(UsageError, match="STAGED_LR"):
        build_optimizer(nn.Linear(2, 2), cfg)


def test_parameters_instead_of_a_module():
    parameters = [nn.Parameter(torch.zeros(3))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = build_optimizer(parameters, optim_cfg(NAME="sgd"))
    assert optimizer.param_groups[0]["params"] == parameters
