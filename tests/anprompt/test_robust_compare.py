"""Which figures under noise are averaged and compared: of the same cells, unseen in training."""

import json
import shutil

import numpy as np
import pytest
from evaluated_runs import call, content
from runs_of_tests import run_folder

from anprompt.results.noise.cells import (
    by_group,
    mean_over_cells,
    seen_by_any,
    unseen_in_training,
)
from anprompt.results.noise.compare import common_keys, compare
from anprompt.results.noise.files import read_evaluations

pytestmark = pytest.mark.slow


def test_headline_leaves_out_what_training_met(evaluated_output):
    header = content(run_folder(evaluated_output, "ANPrompt"))
    assert header["noise_in_training"] == {
        "text_kinds": ["char", "word", "template"],
        "image_kinds": [],
        "seeds": [0],
    }
    summary = header["parts"]["base"]["summary"]
    assert summary["unseen_in_training"]["text"]["kinds"] == ["embed"]
    assert summary["all"]["text"]["kinds"] == ["char", "embed"]
    folders = [run_folder(evaluated_output, trainer) for trainer in ("CoOp", "ANPrompt")]
    evaluations = [e for folder in folders for e in read_evaluations(folder)]
    for comparison in compare(evaluations):
        for row in comparison.rows:  # the same kinds for all, also for those that saw none
            assert row.kinds("text") == ["embed"]
            assert all("char" not in kind for kind in row.kinds("both"))
    alone = compare([e for e in evaluations if e.header["trainer"] == "CoOp"])
    assert alone[0].rows[0].kinds("text") == ["char", "embed"]


def test_seed_of_training_is_left_out_of_text_noise_only(evaluated_output):
    evaluation = read_evaluations(run_folder(evaluated_output, "ANPrompt"))[0]
    seen = {"text_kinds": [], "image_kinds": [], "seeds": [1]}
    assert seen_by_any([{"noise_in_training": seen}]) == seen
    groups = by_group(evaluation.cells(), unseen_in_training(seen))
    assert "image" in groups and "text" not in groups and "both" not in groups


def test_means_give_kinds_the_same_weight(evaluated_output):
    evaluation = read_evaluations(run_folder(evaluated_output, "ANPrompt"))[0]
    cells = [c for c in evaluation.cells() if c.group == "image"]
    one_less = [c for c in cells if (c.kind, c.severity) != ("blur", 4)]
    by_kind = {
        kind: np.mean([c.figures["accuracy"] for c in one_less if c.kind == kind])
        for kind in ("gaussian_noise", "blur")
    }
    expected = pytest.approx(np.mean(list(by_kind.values())))
    assert mean_over_cells(one_less, "accuracy") == expected
    assert evaluation.under(one_less).number == expected


def test_unlike_models_are_no_seeds_of_one(evaluated_output, tmp_path):
    """Copies of a run in folders that say nothing: the same model twice, and one of all classes."""
    source = run_folder(evaluated_output, "CoOp")
    for name in ("a", "b"):
        shutil.copytree(source, tmp_path / name)
    evaluations = [e for name in ("a", "b") for e in read_evaluations(tmp_path / name)]
    with pytest.raises(ValueError, match="are the same method, data set and seed"):
        compare(evaluations)
    path = tmp_path / "b/robustness.json"
    path.write_text(json.dumps(content(tmp_path / "b") | {"trained_on": "all"}))
    evaluations = [e for name in ("a", "b") for e in read_evaluations(tmp_path / name)]
    names = {row.method.name for comparison in compare(evaluations) for row in comparison.rows}
    assert len(names) == 2 and any("trained on all classes" in name for name in names)


def test_common_cells_are_compared(evaluated_output, fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    few = ["--noise", "blur", "--severities", "1", "--images", "20", "--seeds", "1"]
    assert call(capsys, "--model-dir", folder, *few)[0] == 0
    evaluations = read_evaluations(folder) + read_evaluations(run_folder(evaluated_output, "MaPLe"))
    base = [e for e in evaluations if e.subset == "base"]
    assert {k for k in common_keys([[e] for e in base]) if k.startswith("image")} == {
        "image/blur/1/-"
    }
    comparison = compare(base)[0]
    assert comparison.left_out > 0
    assert all(row.kinds("image") == ["blur"] for row in comparison.rows)
