"""python -m anprompt robustness on real runs: its figures against slow ones, and its table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated_runs import SMALL, call, content
from runs_of_tests import run_folder

from anprompt.results.noise.files import read_evaluations
from anprompt.robustness.images import select, split_transform
from anprompt.runs.trained import quiet, read_cfg, training_folder
from common.paths import image_key
from dassl.data.datasets import build_dataset
from dassl.engine import build_trainer
from dassl.utils import read_image
from noise.image import corrupt
from noise.metrics import calibration_error
from noise.seeding import rng_for
from noise.text import perturb_prompt, text_rate

pytestmark = pytest.mark.slow


def reference(folder: Path, part: str, classnames=None, corrupted=None, images=20):
    """Labels and probabilities (by rule) of a run, by way of the ordinary trainer and loops."""
    cfg = read_cfg(folder)
    cfg.DATASET.SUBSAMPLE_CLASSES = part
    cfg.DATALOADER.NUM_WORKERS = 0
    with quiet():
        dataset = build_dataset(cfg)
        trainer = build_trainer(cfg)
        if classnames is not None:
            prompts = trainer.model.prompts.with_texts(classnames)
            trainer.model = trainer.build(cfg, trainer.model.clip, prompts).eval()
        trainer.load_model(str(training_folder(cfg)))
        trainer.model.eval()
    crop, after = split_transform(cfg)
    used = {e.subset: e.part for e in read_evaluations(folder)}[part]["images"]["used"]
    assert used == images
    keys = [image_key(item.impath, dataset, cfg.DATASET.ROOT) for item in dataset.test]
    labels = [item.label for item in dataset.test]
    chosen = select(keys, labels, images)
    pixels = []
    for index in chosen:
        picture = crop(read_image(dataset.test[index].impath))
        if corrupted is not None:
            picture = corrupted(picture, keys[index])
        pixels.append(after(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255))
    with torch.no_grad():
        rules = trainer.model_inference_rules(torch.stack(pixels))
        if rules is None:
            rules = {"class": trainer.model_inference(torch.stack(pixels))}
    probabilities = {rule: values.softmax(dim=-1).numpy() for rule, values in rules.items()}
    return np.array([labels[i] for i in chosen]), probabilities, dataset.classnames


def check_cell(folder, part, key, labels, noisy, clean):
    found = content(folder)["parts"][part]["cells"][key]
    assert set(found) == set(noisy)
    for rule, probabilities in noisy.items():
        answers = probabilities.argmax(axis=1)
        assert found[rule]["accuracy"] == pytest.approx(100 * np.mean(answers == labels))
        assert found[rule]["consistency"] == pytest.approx(
            100 * np.mean(answers == clean[rule].argmax(axis=1))
        )
        error = 100 * calibration_error(probabilities.max(axis=1), answers == labels)
        assert found[rule]["ece"] == pytest.approx(error, abs=0.01)


@pytest.mark.parametrize(("trainer", "part"), [("ANPrompt", "base"), ("MaPLe", "new")])
def test_image_noise_is_what_a_plain_loop_gives(evaluated_output, trainer, part):
    folder = run_folder(evaluated_output, trainer)
    labels, clean, _ = reference(folder, part)

    def noise(picture, key):
        return corrupt(picture, "gaussian_noise", 4, rng_for(1, "image", key, "gaussian_noise"))

    _, noisy, _ = reference(folder, part, corrupted=noise)
    check_cell(folder, part, "image/gaussian_noise/4/1", labels, noisy, clean)
    recorded = content(folder)["parts"][part]["clean"]
    for rule, probabilities in clean.items():
        accuracy = 100 * np.mean(probabilities.argmax(axis=1) == labels)
        assert recorded[rule]["accuracy"] == pytest.approx(accuracy)


def test_text_noise_is_what_perturbed_class_names_give(evaluated_output):
    folder = run_folder(evaluated_output, "CoOp")
    labels, clean, classnames = reference(folder, "base")
    rate = text_rate("char", 4)
    perturbed = [
        perturb_prompt("{}", name, "char", rate, rng_for(1, "text", "char", name))
        for name in classnames
    ]
    assert perturbed != classnames
    _, noisy, _ = reference(folder, "base", classnames=[name.rstrip(".") for name in perturbed])
    check_cell(folder, "base", "text/char/4/1", labels, noisy, clean)


def test_one_call_for_all_equals_one_call_each(evaluated_output, fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    assert call(capsys, "--model-dir", folder, *SMALL, "--batch-size", 7)[0] == 0
    together, alone = content(run_folder(evaluated_output, "CoOp")), content(folder)
    assert alone["parts"]["new"]["classnames"] == together["parts"]["new"]["classnames"]
    for part in ("base", "new"):
        a, b = together["parts"][part], alone["parts"][part]
        assert a["cells"].keys() == b["cells"].keys()
        for key in a["cells"]:
            for rule, figures in a["cells"][key].items():
                assert b["cells"][key][rule] == pytest.approx(figures, abs=1e-3)
        assert [e["image"] for e in a["examples"]] == [e["image"] for e in b["examples"]]
        shown = [{(v["kind"], v["severity"]) for v in e["views"]} for e in a["examples"]]
        kinds = ("gaussian_noise", "blur")
        every = {("clean", 0), *((kind, severity) for kind in kinds for severity in (1, 4))}
        assert shown[:2] == [every, every]  # these at every severity, the others at the middle one
        assert all(own == {v for v in every if v[1] in (0, 4)} for own in shown[2:])


def test_adversarial_images_mislead(evaluated_output):
    for trainer in ("CoOp", "ANPrompt"):
        part = content(run_folder(evaluated_output, trainer))["parts"]["base"]
        rule = part["headline_rule"]
        attacked = part["cells"]["adversarial/pgd/4/1"][rule]["accuracy"]
        assert attacked <= part["clean"][rule]["accuracy"]
        assert attacked < 100


def test_a_method_without_tokens_has_no_noise_on_them(evaluated_output):
    parts = content(run_folder(evaluated_output, "ZeroshotCLIP"))["parts"]
    assert not any(key.startswith("learned") for key in parts["base"]["cells"])
    learning = content(run_folder(evaluated_output, "MaPLe"))["parts"]["base"]["cells"]
    assert "learned/tokens/4/1" in learning


def test_table_names_every_method_and_what_is_left_out(evaluated_output, capsys):
    status, out, err = call(capsys, "--model-dir", evaluated_output, *SMALL)
    assert status == 0
    for name in ("ZeroshotCLIP", "CoOp", "MaPLe", "ANPrompt"):
        assert out.count(name) >= 4  # two tables for each of two parts
    assert "EuroSAT, base classes, 20 images" in out and "EuroSAT, new classes" in out
    assert "met it in training: char, word, template (noise seed 0)" in out
    part = content(run_folder(evaluated_output, "CoOp"))["parts"]["base"]
    line = next(line for line in out.splitlines() if line.startswith("CoOp"))
    assert f"{part['clean']['class']['accuracy']:.1f}" in line.split()
