"""Effective robustness in the tables of domain generalisation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from called import table
from written_runs import write_source, write_target

from anprompt.results.effective import accuracy_among
from anprompt.results.predictions import Answers


def sigmoid(x):
    return 100 / (1 + math.exp(-x))


def test_beside_domain_generalisation_from_imagenet(tmp_path, capsys):
    for seed, (source, target) in enumerate([(70, 63), (72, 64)], start=1):
        write_source(tmp_path, "CoOp", "ImageNet", source, seed=seed)
        write_target(tmp_path, "CoOp", "ImageNet", "ImageNetV2", target, seed=seed)
        write_target(tmp_path, "CoOp", "ImageNet", "ImageNetA", 40, seed=seed)
    assert table([tmp_path, "--protocol", "domaingen"]) == 0
    out = capsys.readouterr().out
    part = out[out.index("effective robustness") :]
    own = [y - sigmoid(0.9232 * math.log(x / (100 - x)) - 0.4977) for x, y in ((70, 63), (72, 64))]
    row = next(line for line in part.splitlines() if line.startswith("CoOp"))
    assert f"{np.mean(own):+.2f} +- {np.std(own):.2f}" in row
    assert row.split()[-3:] == ["-", "-", "-"]
    assert "on their own classes of ImageNet" in part and "Over the seeds" not in part
    write_source(tmp_path, "CoOp", "ImageNet", 74, seed=3)
    assert table([tmp_path, "--protocol", "domaingen"]) == 0
    out = capsys.readouterr().out
    assert f"{np.mean(own):+.2f} +- {np.std(own):.2f}" in out
    told = "Over the seeds that the tests on ImageNet and on the variant both have"
    assert f"{told}: CoOp (ImageNetV2): 1, 2 (not 3)." in out
    write_source(tmp_path / "other", "CoOp", "Caltech101", 90)
    write_target(tmp_path / "other", "CoOp", "Caltech101", "ImageNetV2", 60)
    assert table([tmp_path / "other", "--protocol", "domaingen"]) == 0
    assert "effective" not in capsys.readouterr().out


@pytest.mark.parametrize("whole", [True, False])
def test_accuracy_among_a_variants_classes(whole):
    """Classes b and d: of their three images two are right where a and c are no answers."""
    scores = np.log(
        [[0.6, 0.3, 0.05, 0.05], [0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.3, 0.1], [0.1, 0.2, 0.1, 0.6]]
    )
    order = np.argsort(-scores, axis=1)
    answers = Answers(
        "class", np.array(["w", "x", "y", "z"]), np.array([1, 1, 2, 3]), tuple("abcd"), order,
        np.exp(np.take_along_axis(scores, order, 1)), np.ones(4), scores if whole else None,
    )  # fmt: skip
    assert accuracy_among(answers, ["b", "d"]) == pytest.approx(200 / 3)
    assert accuracy_among(answers, ["b", "e"]) is None
    if not whole:
        one = replace(answers, top_classes=order[:, :1])
        assert accuracy_among(one, ["b", "d"]) is None
