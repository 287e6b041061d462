"""Models written by predict: exports, and files for upstream's code."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from called import robustness
from PIL import Image
from runs_of_tests import BASE, QUICK, ROOT, run_folder
from safetensors.torch import load_file

import train
from anprompt.commands import export, predict
from anprompt.protocols.methods import all_methods
from anprompt.runs.export import read_export
from anprompt.runs.predictor import Predictor
from common.images import read_image
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UsageError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("trainer", ["ZeroshotCLIP", "CoOp", "MaPLe", "ANPrompt"])
def test_export_answers_alike_without_run_or_data(trained_output, trainer, images, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_folder(trained_output, trainer), run)
    before = Predictor.load(run)
    before.export(tmp_path / "export")
    expected = before.predict(images / "a.png")
    shutil.rmtree(run)
    after = Predictor.load(tmp_path / "export")
    assert after.classnames == before.classnames and after.rule == before.rule
    assert after.predict(images / "a.png") == expected
    tensors = load_file(tmp_path / "export/model.safetensors")
    features = tensors["class_features"]
    assert features.shape == (len(BASE), before.trained.model.clip.visual.output_dim)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(BASE)))
    learned = {name for name in tensors if name.startswith("learned.")}
    assert bool(learned) == (trainer != "ZeroshotCLIP")
    description = json.loads((tmp_path / "export/model.json").read_text())
    assert description["classnames"] == BASE
    assert description["input"]["size"] == [64, 64]


def test_a_model_reads_images_as_the_data_set_of_its_plugin(
    trained_output, images, tmp_path, call, monkeypatch
):
    plugin = tmp_path / "birds.py"
    plugin.write_text(
        "from dassl.data.datasets import DATASET_REGISTRY\n"
        "from datasets.eurosat import EuroSAT\n"
        "@DATASET_REGISTRY.register()\nclass Birds(EuroSAT):\n    reading = 'upstream'\n"
    )
    run = tmp_path / "run"
    shutil.copytree(run_folder(trained_output, "CoOp"), run)
    config = run / "config.yaml"
    assert "NAME: EuroSAT" in config.read_text()
    config.write_text(config.read_text().replace("NAME: EuroSAT", "NAME: Birds"))
    with monkeypatch.context() as known:
        known.setattr(DATASET_REGISTRY, "_objects", dict(DATASET_REGISTRY._objects))
        for command in (predict, export):
            name = ["--model-dir"] if command is predict else []
            where = ["--export" if command is predict else "--output", tmp_path / "no"]
            with pytest.raises(UsageError, match="no data set 'Birds' .*name its file with --plu"):
                command.main([*map(str, [*name, run, *where])])
        assert not (tmp_path / "no").exists()
        status, _, _ = call("--model-dir", run, "--plugin", plugin, "--export", tmp_path / "one")
        assert status == 0
    photo = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images / "a.png").convert("RGB").save(photo, exif=exif)
    again = Predictor.load(tmp_path / "one")
    again.set_classes(BASE[:3])
    assert torch.equal(again.prepare(photo), again.prepare(read_image(photo, "upstream")))
    assert not torch.equal(again.prepare(photo), again.prepare(read_image(photo, "as_seen")))
    again.export(tmp_path / "two")
    for name in ("one", "two"):
        assert json.loads((tmp_path / name / "model.json").read_text())["input"]["reading"] == (
            "upstream"
        )


@pytest.mark.parametrize("reading", ["sideways", 3])
def test_an_unknown_reading_is_refused(trained_output, tmp_path, reading):
    Predictor.load(run_folder(trained_output, "CoOp")).export(tmp_path / "export")
    path = tmp_path / "export/model.json"
    description = json.loads(path.read_text())
    del description["digest"]
    description["input"]["reading"] = reading
    path.write_text(json.dumps(description))
    with pytest.raises(UsageError, match="reading"):
        Predictor.load(tmp_path / "export")


@pytest.fixture(scope="module", params=["LinearProbe", "DePTCoOp"])
def per_class_run(request, fake_eurosat, tiny_clip_path, tmp_path_factory) -> Path:
    """A run whose model has tensors of each class's own."""
    folder = tmp_path_factory.mktemp("run")
    method = next(own for own in all_methods() if own.trainer == request.param)
    config = method.config_file(method.config("base2new", "eurosat", 16))
    flags = ["--root", fake_eurosat, "--seed", "1", "--trainer", request.param]
    flags += ["--backbone", tiny_clip_path, "--config-file", config, "--output-dir", folder]
    flags += ["--dataset-config-file", ROOT / "configs/datasets/eurosat.yaml", *QUICK]
    assert train.main([*map(str, flags), "DATASET.SUBSAMPLE_CLASSES", "base"]) == 0
    return folder


def test_exports_for_other_classes_keep_the_rows_of_training(per_class_run, images, tmp_path):
    pictures = [images / "a.png", images / "more/b.JPG"]
    whole = Predictor.load(per_class_run).logits(pictures)
    others = ["sea", "desert", *BASE[2:]]
    for number, names in enumerate((BASE[::-1], [BASE[3], BASE[0]], others, BASE)):
        chosen = Predictor.load(per_class_run, names)
        chosen.export(tmp_path / f"{number}")
        again = Predictor.load(tmp_path / f"{number}")
        assert again.classnames == names
        torch.testing.assert_close(again.logits(pictures), chosen.logits(pictures))
        again.set_classes(BASE)
        torch.testing.assert_close(again.logits(pictures), whole)
    torch.testing.assert_close(
        Predictor.load(per_class_run, BASE[::-1]).logits(pictures), whole.flip(1)
    )


def test_exports_of_before_for_other_classes_are_refused(per_class_run, tmp_path):
    for names, refused in ((BASE[::-1], True), (BASE, False)):
        Predictor.load(per_class_run, names).export(tmp_path / "export")
        path = tmp_path / "export/model.json"
        description = json.loads(path.read_text())
        del description["rows"], description["digest"]
        path.write_text(json.dumps(description))
        if refused:
            with pytest.raises(UsageError, match="an earlier version wrote it for other classes"):
                Predictor.load(tmp_path / "export")
        else:
            assert Predictor.load(tmp_path / "export").classnames == names


def test_models_from_files_without_names_find_their_rows(per_class_run, images, tmp_path):
    """As upstream writes them: the run's own classes are those of training."""
    shutil.copytree(per_class_run, tmp_path / "run")
    whole = Predictor.load(tmp_path / "run").logits([images / "a.png"])
    (path,) = (tmp_path / "run").glob("*/model.pth.tar-*")
    content = torch.load(path, weights_only=True)
    torch.save({"state_dict": content["state_dict"], "epoch": content["epoch"]}, path)
    for names in (BASE, BASE[::-1]):
        own = Predictor.load(tmp_path / "run", names)
        turned = whole if names == BASE else whole.flip(1)
        torch.testing.assert_close(own.logits([images / "a.png"]), turned)
        own.export(tmp_path / "export")
        again = Predictor.load(tmp_path / "export")
        torch.testing.assert_close(again.logits([images / "a.png"]), turned)


def test_text_noise_is_not_measured_on_answers_without_words(per_class_run, tmp_path):
    shutil.copytree(per_class_run, tmp_path / "run")
    flags = ["--noise", "char,jpeg,both", "--severities", "1", "--seeds", "1", "--images", "6"]
    assert robustness(["--model-dir", tmp_path / "run", *flags]) == 0
    parts = json.loads((tmp_path / "run/robustness.json").read_text())["parts"]
    groups = {name: {key.split("/")[0] for key in own["cells"]} for name, own in parts.items()}
    is_probe = json.loads((per_class_run / "results.json").read_text())["trainer"] == "LinearProbe"
    assert groups["base"] == ({"image"} if is_probe else {"text", "image", "both"})
    assert groups["new"] == {"text", "image", "both"}


def test_a_model_is_not_written_among_a_runs_files(trained_output):
    run = run_folder(trained_output, "CoOp", "train_base")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for option in ("--export", "--export-upstream"):
        with pytest.raises(UsageError, match="is the folder of a run"):
            predict.main(["--model-dir", str(run), option, str(run)])
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_damaged_export_is_noticed(trained_output, tmp_path):
    folder = tmp_path / "export"
    Predictor.load(run_folder(trained_output, "CoOp")).export(folder)
    whole = read_export(folder)
    rng = np.random.default_rng(0)
    noticed = 0
    for number in range(80):
        path = folder / ("model.json" if number % 2 else "model.safetensors")
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_export(folder)
        except UsageError as error:
            noticed += 1
            assert str(folder) in str(error)
        else:  # a blank of the JSON file for another
            assert number % 2 and found.classnames == whole.classnames
        path.write_bytes(content)
    assert noticed > 70


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rule": "max"}, "has no rule 'max'"),
        ({"classnames": 3}, "classnames is 3, not a list"),
        ({"trained_on": []}, "trained_on is a list, not a mapping"),
        ({"format": 2}, "not an export of this version"),
    ],
)
def test_exports_of_before_have_no_digest(trained_output, tmp_path, images, caplog, change, said):
    folder = tmp_path / "export"
    before = Predictor.load(run_folder(trained_output, "CoOp"))
    before.export(folder)
    description = json.loads((folder / "model.json").read_text())
    del description["digest"]
    (folder / "model.json").write_text(json.dumps(description))
    with caplog.at_level("INFO"):
        assert Predictor.load(folder).predict(images / "a.png") == before.predict(images / "a.png")
    assert "has no digest" in caplog.text
    (folder / "model.json").write_text(json.dumps(description | change))
    with pytest.raises(UsageError, match=said):
        Predictor.load(folder)


def test_written_for_upstream(trained_output, images, tmp_path, call):
    run = run_folder(trained_output, "MaPLe")
    status, _, err = call("--model-dir", run, "--export-upstream", tmp_path / "theirs")
    (file,) = (tmp_path / "theirs/MultiModalPromptLearner").glob("model.pth.tar-*")
    assert status == 0 and str(file) in err
    assert "prompt_learner.ctx" in torch.load(file, weights_only=True)["state_dict"]
    run = run_folder(trained_output, "ANPrompt")
    status, _, err = call("--model-dir", run, "--export-upstream", tmp_path / "none")
    assert status == 2 and "ANPrompt: no upstream repository" in err
