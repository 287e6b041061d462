"""What a file says is believed only where it is what was asked for."""

import json

import pytest

from common.errors import UsageError
from common.reading import read_json
from common.schema import COUNT, PERCENT, WHOLE, Each, Number, mismatch

RESULTS = {"name": str, "accuracy": PERCENT, "seed": WHOLE, "rules?": Each({"accuracy": PERCENT}),
           "classes?": [str], "views?": [{"kind": str, "severity": COUNT}]}  # fmt: skip
GOOD = {"name": "a", "accuracy": 50, "seed": -1, "rules": {"mix": {"accuracy": 0.5}},
        "classes": ["x"], "views": [{"kind": "blur", "severity": 3}], "more": None}  # fmt: skip


def test_what_fits_is_accepted():
    assert mismatch(GOOD, RESULTS) == ""
    assert mismatch({"name": "", "accuracy": 100.0, "seed": 0, "rules": None}, RESULTS) == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"accuracy": 101}, "accuracy is 101, not a number from 0 to 100"),
        ({"accuracy": -1}, "accuracy is -1, not a number from 0 to 100"),
        ({"accuracy": True}, "accuracy is True, not a number from 0 to 100"),
        ({"accuracy": "50"}, "accuracy is 50, not a number from 0 to 100"),
        ({"accuracy": None}, "accuracy is None, not a number from 0 to 100"),
        ({"accuracy": float("nan")}, "accuracy is nan, not a number from 0 to 100"),
        ({"seed": 1.0}, "seed is 1.0, not a whole number"),
        ({"name": 3}, "name is 3, not a text"),
        ({"name": ["a"]}, "name is a list, not a text"),
        ({"rules": []}, "rules is a list, not a mapping"),
        ({"rules": {"mix": {"accuracy": "x"}}}, "rules/mix/accuracy is x, not a number"),
        ({"rules": {"mix": {}}}, "rules/mix/accuracy is missing"),
        ({"rules": {"mix": 5}}, "rules/mix is 5, not a mapping"),
        ({"classes": "x"}, "classes is x, not a list"),
        ({"classes": ["x", 5]}, "classes/1 is 5, not a text"),
        ({"views": [{"kind": "blur"}]}, "views/0/severity is missing"),
    ],
)
def test_what_does_not_fit_is_named(changes, problem):
    assert mismatch({**GOOD, **changes}, RESULTS).startswith(problem)


def test_missing_and_foreign_content():
    assert mismatch({}, RESULTS) == "name is missing"
    assert mismatch([], RESULTS) == "the content is a list, not a mapping"
    huge = json.loads("1" + "0" * 400)
    assert "accuracy is 1000" in mismatch({**GOOD, "accuracy": huge}, RESULTS)
    assert len(mismatch({**GOOD, "accuracy": huge}, RESULTS)) < 120
    assert not Number(0).holds(float("inf")) and not Number().holds(10**400)


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 64 + "]" * 64)
    assert read_json(path) is not None
    for depth in (65, 900, 100_000):
        path.write_text('{"a":' * depth + "1" + "}" * depth)
        with pytest.raises(UsageError, match="deep"):
            read_json(path)
