"""Descriptions of settings: what they accept, what they say, where they are kept."""

import doctest
import math
import pickle

import pytest
from yacs.config import CfgNode

import common.settings
from common.errors import UsageError
from common.settings import Setting, check_settings, declare, describe, leaves

NAN, INF = math.nan, math.inf


def test_examples_in_the_docstrings():
    assert doctest.testmod(common.settings).failed == 0


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        (Setting(0.9, "x", ge=0, lt=1), [0, 0.0, 0.5], [1, -0.1, NAN, INF, None, "0.5", True, [1]]),
        (Setting(4, "x", gt=0, le=8), [1, 8], [0, 9, 1.0, 10**5000, True, None, "4"]),
        (Setting(1.0, "x"), [-1e300, 3], [10**400, -INF, NAN]),
        (Setting(None, "x", kind=float, ge=0, optional=True), [None, 0, 2.5], [-1, NAN, "a"]),
        (Setting(True, "x"), [True, False], [1, 0, "True", None]),
        (Setting("", "x"), ["", "ü"], [1, None, "a\0b", "a" * 5000, b"a"]),
        (Setting("sgd", "x", choices=("sgd", "adam")), ["adam"], ["", "SGD", None, ["sgd"]]),
        (Setting([0.1, 0.2], "x", gt=0, length=2), [(1, 2)], [[1], [1, 2, 3], [0, 1], [1, NAN], 3]),
        (Setting((0, 1), "x", order="increasing"), [(), (1, 1, 5)], [(2, 1), (1, None), "12"]),
        (Setting([6, 7], "x", order="consecutive", length=(1, 9)), [[3]], [[], [1, 3], [2, 1]]),
        (Setting({"default": 1}, "x", table=True, ge=0), [{}, {"a": 0}], [{"a": -1}, {1: 1}, 3]),
    ],
)
def test_what_is_accepted(setting, good, bad):
    for value in good:
        assert setting.problem(value) == "", value
    for value in bad:
        assert setting.problem(value) == f"takes {setting.range_text()}"


def test_the_default_fulfils_its_own_description():
    for wrong in (
        {"default": 2, "help": "x", "le": 1},
        {"default": None, "help": "x", "kind": int},
        {"default": 1, "help": ""},
        {"default": 1, "help": "x", "scope": "everywhere"},
        {"default": [], "help": "x"},
    ):
        with pytest.raises(ValueError, match="x|''"):
            Setting(**wrong)


def test_values_take_the_defaults_type_where_nothing_is_lost():
    assert type(Setting(0.1, "x").convert(1)) is float
    assert Setting(0.1, "x").convert(10**400) == 10**400
    assert type(Setting(0, "x", kind=float).convert(1)) is int
    assert Setting((1, 2), "x").convert([3, 4]) == (3, 4)
    words = Setting("", "x", true="a photo of a")
    assert words.convert(True) == "a photo of a" and words.convert(False) == ""


def test_all_that_is_wrong_is_named_at_once():
    cfg = CfgNode()
    settings = {
        "A": Setting(1, "first", ge=1),
        "B.C": Setting([1.0], "second"),
        "T": Setting({"default": 0.5}, "third", table=True, le=1),
    }
    declare(cfg, "TRAINER.TOLD", settings)
    check_settings(cfg)
    cfg.TRAINER.TOLD.A, cfg.TRAINER.TOLD.B.C, cfg.TRAINER.TOLD["T"].EuroSAT = 0, [NAN], 2.0
    with pytest.raises(UsageError) as error:
        check_settings(cfg)
    said = str(error.value)
    for part in ("TRAINER.TOLD.A 0: takes a whole number, at least 1 (first)", "B.C [nan]", "T {"):
        assert part in said
    assert describe("TRAINER.TOLD.T.EuroSAT").help == "third"
    assert describe("TRAINER.TOLD.X") is None


def test_settings_that_nobody_described_must_be_finite():
    cfg = CfgNode({"TRAINER": {"STOCK": {"W": 1.0, "NAME": None}}})
    check_settings(cfg)
    cfg.TRAINER.STOCK.W = NAN
    with pytest.raises(UsageError, match="TRAINER.STOCK.W nan"):
        check_settings(cfg)


def test_each_configuration_has_defaults_of_its_own():
    kinds = Setting(["char"], "x")
    first, second = CfgNode(), CfgNode()
    for cfg in (first, second):
        declare(cfg, "", {"KINDS": kinds, "TABLE": Setting({"a": 1}, "x", table=True)})
    first.KINDS.append("word")
    first.TABLE.a = 2
    assert second.KINDS == ["char"] and second.TABLE.a == 1
    assert dict(leaves(second)) == {"KINDS": ["char"], "TABLE": {"a": 1}}
    assert pickle.loads(pickle.dumps(second)) == second
