"""Accuracy, macro-F1, per class, confusions, and the printed block that parsers read."""

import re

import numpy as np
import pytest
import torch
from dassl_toy import few
from hypothesis import given
from hypothesis import strategies as st

from dassl.config import get_cfg_default
from dassl.evaluation import Predictions, build_evaluator
from dassl.metrics import compute_accuracy
from dassl.utils import UsageError

NAMES = {0: "cat", 1: "dog", 2: "eel"}


def one_hot(predictions, classes=3):
    return torch.eye(classes)[torch.tensor(predictions)]


def evaluator(tmp_path, **options):
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(tmp_path)
    for name, value in options.items():
        cfg.TEST[name] = value
    return build_evaluator(cfg, lab2cname=NAMES)


def test_printed_block_and_results(tmp_path, capsys):
    judge = evaluator(tmp_path)
    judge.process(one_hot([0, 0, 1]), torch.tensor([0, 1, 1]))
    judge.process(one_hot([2]), torch.tensor([0]))
    capsys.readouterr()
    results = judge.evaluate()
    # F1 of cat: 1 of 2 found, 1 of 2 right; of dog: 1 of 2 found, 1 of 1 right. Eel has no images.
    assert results["accuracy"] == 50.0
    assert results["error_rate"] == 50.0
    assert results["macro_f1"] == pytest.approx(100 * (0.5 + 2 / 3) / 2)
    assert list(results)[0] == "accuracy"
    assert capsys.readouterr().out == (
        "=> result\n"
        "* total: 4\n"
        "* correct: 2\n"
        "* accuracy: 50.0%\n"
        "* error: 50.0%\n"
        "* macro_f1: 58.3%\n"
    )


def test_upstreams_parser_finds_the_accuracy(tmp_path, capsys):
    judge = evaluator(tmp_path)
    judge.process(one_hot([0] * 1500), torch.tensor([0] * 1234 + [1] * 266))
    judge.evaluate()
    out = capsys.readouterr().out
    assert re.search(r"\* accuracy: ([\.\deE+-]+)%", out).group(1) == "82.3"
    assert "* total: 1,500\n* correct: 1,234\n" in out


def test_per_class(tmp_path, capsys):
    judge = evaluator(tmp_path, PER_CLASS_RESULT=True)
    judge.process(one_hot([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1]))
    results = judge.evaluate()
    assert results["perclass_accuracy"] == pytest.approx((100 + 100 / 3) / 2)
    out = capsys.readouterr().out
    assert "* class: 1 (dog)\ttotal: 3\tcorrect: 1\tacc: 33.3%\n* average: 66.7%\n" in out


def test_confusions_are_saved(tmp_path):
    judge = evaluator(tmp_path, COMPUTE_CMAT=True)
    judge.process(one_hot([0, 1, 1]), torch.tensor([0, 0, 1]))
    judge.evaluate()
    matrix = torch.load(tmp_path / "cmat.pt", weights_only=True)
    assert matrix.tolist() == [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_reset(tmp_path):
    judge = evaluator(tmp_path)
    judge.process(one_hot([0]), torch.tensor([1]))
    judge.reset()
    judge.process(one_hot([0]), torch.tensor([0]))
    assert judge.evaluate()["accuracy"] == 100.0


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(UsageError, match="no images"):
        evaluator(tmp_path).evaluate()


def test_unknown_evaluator(tmp_path):
    with pytest.raises(UsageError, match="Classification"):
        evaluator(tmp_path, EVALUATOR="Clasification")


@few
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40),
    st.integers(1, 7),
)
def test_figures_against_counting(pairs, batch_size):
    tally = Predictions()
    for start in range(0, len(pairs), batch_size):
        predictions, labels = zip(*pairs[start : start + batch_size], strict=True)
        tally.add(one_hot(predictions, 5), torch.tensor(labels))
    figures = tally.figures()
    right = sum(p == y for p, y in pairs)
    assert figures["num_correct"] == right
    assert figures["num_test"] == len(pairs)
    assert figures["accuracy"] == 100.0 * right / len(pairs)
    assert figures["error"] == 100.0 - figures["accuracy"]
    scores = []
    for label in sorted({y for _, y in pairs}):
        hits = sum(p == y == label for p, y in pairs)
        predicted, there = sum(p == label for p, _ in pairs), sum(y == label for _, y in pairs)
        scores.append(2 * hits / (predicted + there))
    assert figures["macro_f1"] == pytest.approx(100 * np.mean(scores))
    assert [row["total"] for row in figures["per_class"]] == [
        sum(y == label for _, y in pairs) for label in sorted({y for _, y in pairs})
    ]


def test_top_k_accuracy():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]])
    labels = torch.tensor([0, 1, 0, 2])
    top1, top2 = compute_accuracy(logits, labels, topk=(1, 2))
    assert (top1.shape, top1.item(), top2.item()) == ((1,), 25.0, 75.0)
    assert compute_accuracy([logits, None], labels)[0].item() == 25.0
