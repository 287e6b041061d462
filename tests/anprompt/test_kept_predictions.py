"""predictions.npz: what was answered is what is read, and damage is noticed."""

import json

import numpy as np
import pytest
import torch

from anprompt.results.predictions import FILE_NAME, read_predictions
from common.errors import UsageError
from dassl.evaluation import kept

pytestmark = pytest.mark.slow


def write(folder, classes=6, count=40, rules=("mix", "class")):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, classes, (count,), generator=generator)
    logits = {rule: torch.randn(count, classes, generator=generator) * 4 for rule in rules}
    collected = {}
    for rule in rules:
        collected[rule] = kept.KeptPredictions(count)
        for part in torch.arange(count).split(16):
            collected[rule].add(logits[rule][part], labels[part])
    paths = [f"set/class {i}/é{i}.png" for i in range(count)]
    names = [f"class {c}" for c in range(classes)]
    said = kept.write_predictions(str(folder), paths, labels.tolist(), names, collected)
    return {"predictions": said}, paths, labels, logits


def test_round_trip(tmp_path):
    results, paths, labels, logits = write(tmp_path)
    answers = read_predictions(tmp_path, results)
    assert list(answers) == ["mix", "class"]
    for rule, found in answers.items():
        probabilities = logits[rule].softmax(-1)
        assert found.paths.tolist() == paths
        assert found.labels.tolist() == labels.tolist()
        top = probabilities.topk(5)
        assert found.top_classes.tolist() == top.indices.tolist()
        np.testing.assert_allclose(found.top_probabilities, top.values, atol=5e-4)
        true = probabilities.gather(1, labels[:, None])[:, 0]
        np.testing.assert_allclose(found.true_probability, true, atol=5e-4)
        np.testing.assert_allclose(
            found.log_probabilities, probabilities.log(), rtol=1e-3, atol=1e-3
        )
        expected = 100 * (logits[rule].argmax(-1) == labels).double().mean()
        assert found.accuracy == pytest.approx(float(expected))
        assert np.trace(found.confusion_matrix()) == round(float(expected) * 40 / 100)


def test_large_tests_keep_the_best_five(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "FULL_SIZE", 200)
    results, *_ = write(tmp_path)
    assert read_predictions(tmp_path, results)["mix"].log_probabilities is None


def test_two_classes(tmp_path):
    results, *_ = write(tmp_path, classes=2, rules=("class",))
    assert read_predictions(tmp_path, results)["class"].top_classes.shape == (40, 2)


def test_runs_without_any(tmp_path):
    assert read_predictions(tmp_path, {"accuracy": 50.0}) == {}


def test_damage_is_one_line(tmp_path):
    results, *_ = write(tmp_path)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    for content in (whole[:-40], whole[:100] + b"x" + whole[101:], b"", b"PK"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"predictions\.npz"):
            read_predictions(tmp_path, results)
    path.unlink()
    with pytest.raises(UsageError, match="no such file"):
        read_predictions(tmp_path, results)


def test_foreign_content_is_one_line(tmp_path):
    import hashlib

    for arrays in (
        {"labels": np.zeros(3)},
        {"paths": np.array(["a"]), "labels": np.array([5]), "classnames": np.array(["x"]),
         "rules": np.array(["class"])},
        {"paths": np.array(["a"]), "labels": np.array([0]), "classnames": np.array(["x"]),
         "rules": np.array(["class"]), "top_classes_0": np.array([[0]]),
         "top_probabilities_0": np.array([[np.nan]]), "true_probability_0": np.array([0.5])},
    ):  # fmt: skip
        np.savez(tmp_path / FILE_NAME, **arrays)
        digest = hashlib.sha256((tmp_path / FILE_NAME).read_bytes()).hexdigest()
        with pytest.raises(UsageError, match="not the predictions"):
            read_predictions(tmp_path, {"predictions": {"sha256": digest}})


def test_a_run_keeps_its_answers(fake_eurosat, tiny_clip_path, tmp_path):
    import train

    argv = ["--root", str(fake_eurosat), "--seed", "1", "--trainer", "ANPrompt"]
    argv += ["--dataset-config-file", "configs/datasets/eurosat.yaml"]
    argv += ["--config-file", "configs/trainers/ANPrompt/vit_b16.yaml"]
    argv += ["--backbone", str(tiny_clip_path), "--output-dir", str(tmp_path / "run"), "--quiet"]
    argv += ["DATASET.NUM_SHOTS", "1", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", "1"]
    argv += ["DATALOADER.NUM_WORKERS", "0"]
    assert train.main(argv) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    answers = read_predictions(tmp_path / "run")
    assert next(iter(answers)) == results["headline_rule"]
    assert set(answers) == set(results["rules"])
    for rule, found in answers.items():
        assert found.accuracy == pytest.approx(results["rules"][rule]["accuracy"])
        assert len(found.paths) == results["num_test"]
        assert all((fake_eurosat / path).is_file() for path in found.paths)
