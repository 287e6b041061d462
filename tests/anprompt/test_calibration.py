"""Temperature scaling and DAC: right values, answers as they were; words near a context."""

import csv
import io
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from runs_of_tests import CONFIGS, QUICK, ROOT, run_folder
from torch.nn.functional import cross_entropy

import train
from anprompt import Predictor
from anprompt.commands import calibrate, interpret, predict, robustness
from anprompt.runs.calibration import Scaling, distance_factors, factors_of, fit_temperature
from anprompt.runs.trained import quiet, read_cfg
from common import cli
from common.errors import UsageError
from common.files import file_digest
from dassl.data.datasets import build_dataset
from dassl.utils import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow


def test_temperature_is_found():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator) * 2
    labels = torch.distributions.Categorical(logits=logits).sample().numpy()
    sharpened = (3 * logits).log_softmax(-1).numpy()
    assert fit_temperature(sharpened, labels) == pytest.approx(3, rel=0.15)


def unit(*shape: int, seed: int) -> torch.Tensor:
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(features, dim=-1)


@pytest.mark.parametrize("base_classes", [3, 8])
def test_factors_are_the_equations(base_classes):
    tuned, zero_shot = unit(4, 16, seed=1), unit(4, 16, seed=2)
    base_tuned, base_zero_shot = unit(base_classes, 16, seed=3), unit(base_classes, 16, seed=4)
    tuned[2] = base_tuned[1]  # trained on
    found = distance_factors(tuned, zero_shot, base_tuned, base_zero_shot)

    def s(feature, base):
        nearest = sorted(math.dist(feature.tolist(), other.tolist()) for other in base)[:5]
        return math.exp(-sum(nearest) / len(nearest))

    for i in range(4):
        expected = s(tuned[i], base_tuned) / s(zero_shot[i], base_zero_shot) if i != 2 else 1
        assert float(found[i]) == pytest.approx(expected, rel=1e-5)


def test_answers_stay_as_they_are():
    logits = 20 * torch.randn(500, 7, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([0.3, 0.9, 1.0, 1.7, 0.5, 1.2, 0.8])
    for scaling in (Scaling(0.02), Scaling(37.0), Scaling(2.0, factors)):
        assert torch.equal(scaling(logits).argsort(dim=-1), logits.argsort(dim=-1))
    scaled = Scaling(2.0, factors)(logits)
    for before, after in zip(logits, scaled, strict=True):
        torch.testing.assert_close(after, before * factors[before.argmax()] / 2)


@pytest.fixture
def new_run(trained_output, tmp_path):
    """A copy of CoOp's runs: (trained on base classes, tested on new ones)."""
    shutil.copytree(trained_output / "base2new", tmp_path / "base2new")
    return tuple(run_folder(tmp_path, "CoOp", part) for part in ("train_base", "test_new"))


def test_a_run_is_calibrated(new_run, fake_eurosat, capsys):
    base, new = new_run
    image = next((fake_eurosat / "eurosat/2750/River").iterdir())
    before = Predictor.load(new)
    with pytest.raises(UsageError, match=r"no calibration.json; run python -m anprompt calibrate"):
        before.calibrate("temperature", new)
    assert cli.run(calibrate.main, "anprompt calibrate", [str(new), "--dac"]) == 0
    printed = capsys.readouterr().out
    assert "fitted on" in printed and "both" in printed
    content = json.loads((new / "calibration.json").read_text())
    figures = content["figures"]
    assert list(figures) == ["before", "temperature", "DAC", "both"]
    accuracy = json.loads((new / "results.json").read_text())["accuracy"]
    assert [row["accuracy"] for row in figures.values()] == pytest.approx([accuracy] * 4)
    digest = file_digest(base / "prompt_learner/model.pth.tar-2")
    fitted_on = {"run": str(base), "split": "val", "images": 5, "checkpoint": digest}
    fitted_on["rule"] = "class"
    assert content["fitted_on"] == fitted_on
    assert 0.01 < content["temperature"] < 100
    after = Predictor.load(new)
    after.calibrate("both", new)
    t, raw = content["temperature"], before.logits([image])
    factor = factors_of(after.trained)[raw.argmax()]
    assert factor != 1
    torch.testing.assert_close(after.probabilities([image]), (factor * raw / t).softmax(dim=-1))
    after.set_classes(Predictor.load(base).classnames)
    torch.testing.assert_close(after.scaling.factors, torch.ones(5))

    arguments = ["--model-dir", str(new), str(image), "--csv", "--calibrate", "temperature"]
    assert predict.main(arguments) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    expected = (raw / t).softmax(dim=-1).max()
    assert float(rows[0]["probability"]) == pytest.approx(float(expected), abs=1e-5)


def test_a_temperature_is_fitted_to_the_logits_that_it_scales(
    trained_output, fake_eurosat, tmp_path
):
    shutil.copytree(trained_output / "base2new", tmp_path / "base2new")
    base, new = (run_folder(tmp_path, "ANPrompt", part) for part in ("train_base", "test_new"))
    assert calibrate.main([str(new)]) == 0
    content = json.loads((new / "calibration.json").read_text())
    assert content["fitted_on"]["rule"] == "class"

    on_base = Predictor.load(base)
    with quiet():
        images = build_dataset(read_cfg(base)).val
    labels = torch.tensor([image.label for image in images])
    logits = on_base.logits_by_rule([image.impath for image in images])
    torch.testing.assert_close(logits["mix"], on_base.logits([i.impath for i in images]))
    temperatures = content["temperatures"]
    assert content["temperature"] == temperatures["class"] != temperatures["mix"]
    for rule, found in temperatures.items():  # none near it fits better
        nll = [cross_entropy(logits[rule] / t, labels) for t in (found, found * 1.1, found / 1.1)]
        assert min(nll) == nll[0]

    predictor = Predictor.load(new)  # of new classes: answered by class logits
    predictor.calibrate("temperature", new)
    assert predictor.scaling.temperature == temperatures["class"]

    shutil.copy(new / "calibration.json", base / "calibration.json")
    on_base.calibrate("temperature", base)
    assert (on_base.rule, on_base.scaling.temperature) == ("mix", temperatures["mix"])
    on_base.set_classes(predictor.classnames)
    assert (on_base.rule, on_base.scaling.temperature) == ("class", temperatures["class"])

    del content["temperatures"]  # as an earlier version wrote it
    (new / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="no temperature for logits of the rule 'class'; run "):
        Predictor.load(new).calibrate("temperature", new)
    plain = run_folder(tmp_path, "CoOp")
    (plain / "calibration.json").write_text('{"temperature": 2.0}')
    one_rule = Predictor.load(plain)
    one_rule.calibrate("temperature", plain)
    assert one_rule.scaling.temperature == 2.0


def test_a_scaling_that_makes_it_worse_is_named():
    figures = {"before": {"nll": 0.9}, "temperature": {"nll": 2.1}, "DAC": {"nll": 0.8}}
    (line,) = calibrate.warnings_on(figures)
    assert line.startswith("temperature makes confidences worse on these images (NLL 2.1000, ")


def test_a_temperature_is_of_one_checkpoint(new_run):
    base, new = new_run
    assert calibrate.main([str(new)]) == 0
    model = base / "prompt_learner/model.pth.tar-2"
    checkpoint = load_checkpoint(str(model))
    checkpoint["state_dict"]["ctx"] += 1
    save_checkpoint(checkpoint, str(base / "prompt_learner"), verbose=False)
    assert (
        file_digest(model)
        != json.loads((new / "calibration.json").read_text())["fitted_on"]["checkpoint"]
    )
    with pytest.raises(UsageError, match="fitted to another checkpoint than .*calibrate .* again"):
        Predictor.load(new).calibrate("temperature", new)
    before = (new / "calibration.json").read_bytes()
    with pytest.raises(UsageError, match="its training has another checkpoint now than was tested"):
        calibrate.main([str(new)])
    assert (new / "calibration.json").read_bytes() == before


def test_an_evaluation_of_one_epoch_answers_with_it(new_run):
    base, new = new_run
    first = base / "prompt_learner/model.pth.tar-1"
    checkpoint = load_checkpoint(str(base / "prompt_learner/model.pth.tar-2"))
    checkpoint["epoch"] = 1
    checkpoint["state_dict"]["ctx"] += 1
    save_checkpoint(checkpoint, str(base / "prompt_learner"), verbose=False)
    config = new / "config.yaml"
    text = config.read_text()
    assert "LOAD_EPOCH: -1" in text
    config.write_text(text.replace("LOAD_EPOCH: -1", "LOAD_EPOCH: 1"))
    assert Predictor.load(new).trained.path == first
    assert Predictor.load(new, epoch=2).trained.path != first
    assert Predictor.load(base).trained.path != first


@pytest.fixture
def train_on(fake_eurosat, tiny_clip_path, tmp_path, monkeypatch):
    """Trains CoOp on a folder of one's own, filled with images of three classes for each part."""
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path / "cache"))

    def train_on(folder, parts, *more):
        for start, part in enumerate(parts):
            for source in ("Forest", "River", "SeaLake"):
                (folder / part / source).mkdir(parents=True)
                for file in sorted((fake_eurosat / "eurosat/2750" / source).iterdir())[start::2]:
                    shutil.copy(file, folder / part / source / file.name)
        flags = ["--seed", "1", "--trainer", "CoOp", "--backbone", str(tiny_clip_path)]
        flags += ["--config-file", str(ROOT / f"configs/trainers/{CONFIGS['CoOp']}.yaml")]
        flags += ["--dataset-config-file", str(ROOT / "configs/datasets/imagefolder.yaml")]
        options = [*QUICK, "DATASET.NUM_SHOTS", "16", "DATASET.IMAGE_DIR", str(folder)]
        return train.main([*flags, *more, *options])

    return train_on


def add_images(folder):
    """Put an image into each class folder, so that validation images are drawn anew."""
    for number, place in enumerate(sorted(path for path in folder.iterdir())):
        Image.new("RGB", (64, 64), (number, 9, 9)).save(place / "aaa.png")


def test_a_temperature_is_fitted_on_the_images_that_the_training_kept_for_it(
    train_on, tmp_path, capsys
):
    run, images = tmp_path / "run", tmp_path / "own"
    assert train_on(images, ("train", "test"), "--output-dir", str(run)) == 0
    assert calibrate.main([str(run)]) == 0
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    add_images(images / "train")
    capsys.readouterr()
    assert cli.run(calibrate.main, "anprompt calibrate", [str(run)]) == 2
    said = capsys.readouterr().err
    assert "have changed since the run (the list of training images or classes, the list" in said
    assert len(said.strip().splitlines()) == 1
    assert kept == {path: path.read_bytes() for path in tmp_path.rglob("*.json")}


def test_images_that_were_divided_anew_are_not_tested_on(train_on, tmp_path):
    run, images = tmp_path / "run", tmp_path / "own"
    assert train_on(images, ("",), "--output-dir", str(run)) == 0
    again = ["--eval-only", "--model-dir", str(run), "--output-dir"]
    assert train_on(images, (), *again, str(tmp_path / "tested")) == 0
    (run / "results.json").unlink()
    assert len(Predictor.load(run).classnames) == 3
    add_images(images)
    assert train_on(images, (), *again, str(tmp_path / "other")) == 2
    assert not (tmp_path / "other/results.json").exists()
    for refused in (
        lambda: calibrate.main([str(tmp_path / "tested")]),
        lambda: robustness.main(["--model-dir", str(run), "--noise", "jpeg"]),
    ):
        with pytest.raises(UsageError, match="have changed since the run .the list of training"):
            refused()
    assert len(Predictor.load(run).classnames) == 3  # its checkpoint says them
    spelt_otherwise = tmp_path / "own" / ".." / "own"
    assert train_on(spelt_otherwise, (), *again, str(tmp_path / "other")) == 2


def test_no_image_is_fitted_on_and_tested():
    def images(*names):
        return [SimpleNamespace(impath=f"/data/set/{name}") for name in names]

    def chosen(split, *tested):
        return calibrate.images_for(data, split, {f"set/{name}" for name in tested}, "/data")[1]

    data = SimpleNamespace(dataset_dir="/data/set", val=images("b"), train_x=images("c"))
    assert chosen("val", "a", "b") == "train"  # as of ImageNet, whose val is its test
    data.val = images("d")
    assert chosen("val", "a", "b") == "val"
    assert chosen("train", "a", "b") == "train"
    assert chosen("val", "d") == "train"  # a run with TEST.SPLIT val
    data.train_x, data.val = images("a"), None
    with pytest.raises(UsageError, match="no images to fit on"):
        chosen("val", "a", "b")


def test_a_run_that_was_tested_on_validation_images_is_not_fitted_on_them(new_run, capsys):
    base, _ = new_run
    tested = base.parent / "tested_on_val"
    recorded = json.loads((base / "results.json").read_text())["config"]
    root, backbone = recorded["DATASET"]["ROOT"], recorded["MODEL"]["BACKBONE"]["NAME"]
    flags = ["--root", root, "--seed", "1", "--trainer", "CoOp", "--backbone", backbone]
    flags += ["--config-file", str(ROOT / f"configs/trainers/{CONFIGS['CoOp']}.yaml")]
    flags += ["--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml")]
    flags += ["--output-dir", str(tested), "--eval-only", "--model-dir", str(base)]
    options = [*QUICK, "DATASET.SUBSAMPLE_CLASSES", "base", "TEST.SPLIT", "val"]
    assert train.main([*flags, *options]) == 0
    assert calibrate.main([str(tested)]) == 0
    fitted = json.loads((tested / "calibration.json").read_text())["fitted_on"]
    assert fitted["split"] == "train"
    assert "images of train" in capsys.readouterr().out


def test_what_cannot_be_calibrated_is_one_line(new_run, capsys, tmp_path):
    base, _ = new_run
    (base / "calibration.json").write_text('{"temperature": -1}')
    with pytest.raises(UsageError, match="calibration.json: not a calibration .temperature"):
        Predictor.load(base).calibrate("temperature", base)
    zero_shot = run_folder(tmp_path, "ZeroshotCLIP")
    with pytest.raises(UsageError, match="ZeroshotCLIP: DAC needs the classes of training"):
        Predictor.load(zero_shot).calibrate("dac", zero_shot)
    for arguments, message in [
        ([str(tmp_path)], "no config.yaml"),
        ([str(base), "--batch", "0"], "0"),
    ]:
        assert cli.run(calibrate.main, "anprompt calibrate", arguments) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.strip().splitlines()) == 1


def test_folders_with_the_names_of_classes_are_labels(
    trained_output, fake_eurosat, tmp_path, capsys
):
    run = run_folder(trained_output, "CoOp")
    names = Predictor.load(run).classnames
    for name, source in (
        ("forest", "Forest"),
        ("Annual_Crop_Land", "AnnualCrop"),
        ("other", "River"),
    ):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for file in sorted((fake_eurosat / "eurosat/2750" / source).iterdir())[:3]:
            shutil.copy(file, tmp_path / "mine" / name / file.name)
    command = ["--model-dir", str(run), str(tmp_path / "mine"), "--csv", "--top", "1"]
    assert predict.main([*command, "--batch", "2", "--workers", "3"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    expected = [names[0]] * 3 + ["Forest"] * 3 + [""] * 3
    assert [row["label"] for row in rows] == expected
    right = sum(row["class"] == row["label"] for row in rows)
    assert f"accuracy {100 * right / 6:.1f}%: {right} of 6 images; 3 in folders that" in err
    assert predict.main(command) == 0
    again = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    np.testing.assert_allclose(
        [float(row["probability"]) for row in again],
        [float(row["probability"]) for row in rows], atol=2e-6,
    )  # fmt: skip


def test_words_near_a_context(trained_output, tmp_path, capsys):
    predictor = Predictor.load(run_folder(trained_output, "CoOp"))
    model = predictor.trained.model
    from clip.simple_tokenizer import SimpleTokenizer

    ids = SimpleTokenizer().encode("photo of dogs")
    embedding = model.clip.token_embedding.weight
    with torch.no_grad():
        context = model.prompt_learner.ctx
        context.copy_(embedding[ids[:1]].expand_as(context))
        context[1] = embedding[ids[2]] + 1e-4
    model.eval()
    predictor.export(tmp_path / "model")
    assert interpret.main([str(tmp_path / "model"), "--top", "2", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["word"] for row in rows[0::2][:2]] == ["photo</w>", "dogs</w>"]
    assert float(rows[0]["distance"]) == pytest.approx(0, abs=1e-3)
    second = (embedding - embedding[ids[0]]).norm(dim=1).sort().values[1]
    assert float(rows[1]["distance"]) == pytest.approx(float(second), rel=1e-3)
    assert interpret.main([str(tmp_path / "model")]) == 0
    assert "between words: " in capsys.readouterr().out
    run = run_folder(trained_output, "ANPrompt")
    assert cli.run(interpret.main, "anprompt interpret", [str(run)]) == 2
    assert "ANPrompt learns no vectors that stand in the place of words" in capsys.readouterr().err
