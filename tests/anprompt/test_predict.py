"""python -m anprompt predict and the Predictor: the trainer's own answers, odd folders."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs_of_tests import BASE, run_folder

from anprompt.commands import predict
from anprompt.runs.predictor import Predictor
from anprompt.runs.trained import quiet, read_cfg, training_folder
from dassl.engine import build_trainer
from dassl.utils import UsageError
from datasets.eurosat import EuroSAT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("trainer", ["ZeroshotCLIP", "CoOp", "ANPrompt"])
def test_answers_are_the_trainers(trained_output, trainer, images):
    folder = run_folder(trained_output, trainer)
    predictor = Predictor.load(folder)
    assert predictor.classnames == BASE
    (answers,) = predictor.predict_many([images / "a.png"], top=5)
    cfg = read_cfg(folder)
    cfg.DATALOADER.NUM_WORKERS = 0
    with quiet():
        built = build_trainer(cfg)
        built.load_model(str(training_folder(cfg)))
        built.model.eval()
    dataset = built.test_loader.dataset
    item = next(
        dataset[i]
        for i, datum in enumerate(dataset.data_source)
        if datum.impath.endswith("Forest_30.png")
    )
    with torch.no_grad():
        expected = built.model_inference(item["img"].unsqueeze(0)).softmax(dim=-1)[0]
    assert {a.classname: a.probability for a in answers} == pytest.approx(
        dict(zip(BASE, expected.tolist(), strict=True)), abs=1e-5
    )
    assert [a.probability for a in answers] == sorted(expected.tolist(), reverse=True)
    assert predictor.predict(Image.open(images / "a.png"), top=2) == answers[:2]


def test_folder_with_a_text_file_and_broken_images(trained_output, images, call):
    run = run_folder(trained_output, "CoOp")
    status, out, err = call("--model-dir", run, images, "--csv", "--top", 2)
    assert status == 1
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(Path(row["image"]).name, row["rank"]) for row in rows] == [
        ("a.png", "1"), ("a.png", "2"), ("b.JPG", "1"), ("b.JPG", "2"),
    ]  # fmt: skip
    lines = err.strip().splitlines()
    assert sum(line.startswith("not read:") for line in lines) == 2
    assert any("broken.jpeg" in line for line in lines)
    assert any("empty.png" in line for line in lines)
    assert any("notes.txt" in line and "left out: 1" in line for line in lines)

    status, out, _ = call("--model-dir", run, images, "--json", "--top", 9)
    content = json.loads(out)
    assert status == 1
    assert [sorted(entry) for entry in content] == [
        ["image", "predictions"], ["error", "image"], ["error", "image"], ["image", "predictions"],
    ]  # fmt: skip
    assert len(content[0]["predictions"]) == len(BASE)
    assert sum(p["probability"] for p in content[0]["predictions"]) == pytest.approx(1, abs=1e-4)

    (images / "broken.jpeg").unlink()
    (images / "empty.png").unlink()
    status, out, _ = call("--model-dir", run, images)
    assert status == 0 and "a.png" in out and "%" in out


def test_folders_as_training_takes_them(trained_output, images, tmp_path, call):
    """Linked folders are looked into, hidden ones are not; links that lead nowhere are named."""
    run, here = run_folder(trained_output, "CoOp"), tmp_path / "here"
    (here / ".trash").mkdir(parents=True)
    shutil.copy(images / "a.png", here / ".trash/hidden.png")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(images / "a.png", tmp_path / "elsewhere/linked.png")
    (here / "link").symlink_to(tmp_path / "elsewhere")
    (here / "gone.png").symlink_to(tmp_path / "gone.png")
    status, out, err = call("--model-dir", run, here, "--csv", "--top", 1)
    assert status == 1 and "not read: " in err and "gone.png" in err
    assert [Path(row["image"]).name for row in csv.DictReader(io.StringIO(out))] == ["linked.png"]


@pytest.mark.parametrize("reading", ["as_seen", "upstream"])
def test_pictures_are_read_as_those_of_the_runs_data_set(
    trained_output, tmp_path, monkeypatch, reading
):
    """Greys of 16 bits, a photograph held upright, and what is transparent."""
    monkeypatch.setattr(EuroSAT, "reading", reading)
    colours = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    plain = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x0112] = 6  # is to be turned clockwise
    plain.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    layer = plain.convert("RGBA")
    layer.paste((0, 0, 0, 0), (0, 0, 30, 40))
    layer.save(tmp_path / "layer.png")
    white = plain.copy()
    white.paste((255, 255, 255), (0, 0, 30, 40))
    grey = plain.convert("L")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.asarray(grey).astype(np.float32)).save(tmp_path / "float.tiff")
    predictor = Predictor.load(run_folder(trained_output, "CoOp"))
    for name, seen in (("turned", plain), ("layer", white), ("deep", grey.convert("RGB"))):
        found = predictor.prepare(tmp_path / f"{name}.png")
        assert torch.equal(found, predictor.prepare(seen)) == (reading == "as_seen"), name
        with Image.open(tmp_path / f"{name}.png") as image:
            assert torch.equal(found, predictor.prepare(image))
    if reading == "as_seen":
        with pytest.raises(UsageError, match="float.tiff .*greys have no agreed range"):
            predictor.prepare(tmp_path / "float.tiff")


def test_the_order_of_names_changes_nothing(trained_output, images):
    folder = run_folder(trained_output, "ANPrompt")
    names = Predictor.load(folder).classnames
    first, second = (
        Predictor.load(folder, order).predict(images / "a.png") for order in (names, names[::-1])
    )
    assert [p.classname for p in first] == [p.classname for p in second]
    for one, other in zip(first, second, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-6)


def test_other_classes(trained_output, images, tmp_path, call):
    names = tmp_path / "names.txt"
    names.write_text("sea\n\n  desert \n")
    run = run_folder(trained_output, "ANPrompt")
    status, out, _ = call("--model-dir", run, images / "a.png", "--classes", names, "--json")
    assert status == 0
    found = {p["class"] for p in json.loads(out)[0]["predictions"]}
    assert found == {"sea", "desert"}
    (tmp_path / "names.json").write_text('["sea", "desert"]')
    again = call(
        "--model-dir", run, images / "a.png", "--classes", tmp_path / "names.json", "--json"
    )
    assert again[1] == out
    # nobody trained on these: class logits alone answer
    assert Predictor.load(run, ["sea", "desert"]).rule == "class"
    assert Predictor.load(run).rule == "mix"


def test_logits_features_and_other_classes_at_run_time(trained_output, images):
    run = run_folder(trained_output, "ANPrompt")
    predictor = Predictor.load(run)
    pictures = [images / "a.png", Image.open(images / "a.png"), predictor.prepare(images / "a.png")]
    logits = predictor.logits(pictures)
    assert logits.shape == (3, len(BASE)) and torch.equal(logits[0], logits[2])
    torch.testing.assert_close(predictor.probabilities(pictures), logits.softmax(dim=-1))
    best = predictor.predict(images / "a.png", top=1)[0]
    assert best.classname == BASE[int(logits[0].argmax())]
    f, s = predictor.image_features(pictures), predictor.text_features()
    assert predictor.rule == "mix"
    tau = float(predictor.trained.model.scale)
    predictor.trained.model.rule = "class"
    torch.testing.assert_close(predictor.logits(pictures), tau * f @ s.t(), atol=1e-3, rtol=1e-4)
    assert predictor.logits([]).shape == (0, len(BASE)) and predictor.predict_many([]) == []

    predictor.set_classes(["sea", "desert", "Forest"])
    assert predictor.classnames == ["sea", "desert", "Forest"] and predictor.rule == "class"
    expected = Predictor.load(run, ["sea", "desert", "Forest"]).logits(pictures)
    assert torch.equal(predictor.logits(pictures), expected)
    predictor.set_classes(BASE[:2])  # trained on both
    assert predictor.rule == "mix"
    predictor.set_classes(BASE)
    assert predictor.rule == "mix" and torch.equal(predictor.logits(pictures), logits)
    with pytest.raises(UsageError, match="two at least"):
        predictor.set_classes(["sea"])
    with pytest.raises(UsageError, match="class 'very.*CLIP reads 77"):
        predictor.set_classes(["sea", "very v " * 40])


def test_answers_that_are_not_finite_are_none(trained_output, images):
    predictor = Predictor.load(run_folder(trained_output, "CoOp"))
    with torch.no_grad():
        predictor.trained.model.prompt_learner.ctx[0, 0] = float("nan")
    predictor.trained.model.eval()  # forgets the features of before
    with pytest.raises(UsageError, match="not finite"):
        predictor.predict(images / "a.png")


def test_what_training_accepts_is_accepted(trained_output, images, tmp_path):
    """Two classes of one name, as ImageNet has them."""
    run = tmp_path / "run"
    shutil.copytree(run_folder(trained_output, "ZeroshotCLIP"), run)
    results = json.loads((run / "results.json").read_text())
    results["classnames"] = ["Forest", "River", "Forest"]
    (run / "results.json").write_text(json.dumps(results))
    predictor = Predictor.load(run)
    assert predictor.classnames == ["Forest", "River", "Forest"]
    assert len(predictor.predict(images / "a.png")) == 3
    predictor.export(tmp_path / "export")
    assert Predictor.load(tmp_path / "export").classnames == predictor.classnames
    assert Predictor.load(run, predictor.classnames).classnames == predictor.classnames
    with pytest.raises(UsageError, match="named twice"):
        Predictor.load(run, ["cat", "cat"])
    for unsayable in ("_", "a\0b", "x" * 600):
        with pytest.raises(UsageError, match="class name"):
            Predictor.load(run, ["cat", unsayable])
    with pytest.raises(UsageError, match="'a_cat' is named twice .'A cat' is the same in prompts"):
        Predictor.load(run, ["a_cat", "dog", "A cat"])


def test_the_page_of_the_docs(trained_output, images, tmp_path, monkeypatch):
    """The Python of docs/PREDICT.md runs."""
    text = (Path(__file__).parents[2] / "docs/PREDICT.md").read_text(encoding="utf-8")
    predictor_code, model_code = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    run = run_folder(trained_output, "CoOp")
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        Image.open(images / "a.png").save(tmp_path / name, quality=95)
    names = {"RUN": str(run)}
    exec(predictor_code, names)
    predictor = names["predictor"]
    assert predictor.classnames == ["lake", "river", "sea"]
    names["images"] = torch.stack([predictor.prepare(tmp_path / "photo.jpg")])
    expected = predictor.logits(names["images"])
    exec(model_code, names)
    assert torch.equal(names["trained"].model(names["images"]).detach(), expected)


def test_evaluations_folder_leads_to_its_training(trained_output, images):
    folder = run_folder(trained_output, "ANPrompt", "test_new")
    predictor = Predictor.load(folder)
    assert "River" in predictor.classnames and predictor.rule == "class"
    learned = Predictor.load(run_folder(trained_output, "ANPrompt")).trained.model.prompt_learner
    own = predictor.trained.model.prompt_learner
    assert torch.equal(own.noise_prompts, learned.noise_prompts)
    assert len(predictor.predict(images / "a.png")) == 5


def test_bad_input_is_one_line(trained_output, images, tmp_path, call):
    run = run_folder(trained_output, "CoOp")
    (tmp_path / "one.txt").write_text("alone\n")
    (tmp_path / "twice.txt").write_text("cat\ncat\n")
    (tmp_path / "bad.json").write_text('["a", 3]')
    (tmp_path / "none").mkdir()
    for name in ("export", "whole"):
        Predictor.load(run).export(tmp_path / name)
    (tmp_path / "export/model.safetensors").write_bytes(b"12345678")
    for arguments, message in [
        (["--model-dir", tmp_path / "none", images], "no config.yaml"),
        (["--model-dir", run], "name an image"),
        (["--model-dir", run, tmp_path / "missing.png"], "no such file or folder"),
        (["--model-dir", run, tmp_path / "none"], "no image in this folder"),
        (["--model-dir", run, "/dev/null"], "no regular file"),
        (["--model-dir", run, ""], "an empty path"),
        (["--model-dir", run, images, "--top", "0"], "--top 0"),
        (["--model-dir", run, images, "--classes", tmp_path / "no.txt"], "no such file"),
        (["--model-dir", run, images, "--classes", tmp_path / "one.txt"], "two at least"),
        (["--model-dir", run, images, "--classes", tmp_path / "twice.txt"], "named twice"),
        (["--model-dir", run, images, "--classes", tmp_path / "bad.json"], "JSON list"),
        (["--model-dir", run, images, "--json", "--csv"], "not allowed"),
        (["--model-dir", tmp_path / "export", images], "damaged or were changed"),
        (["--model-dir", run, "--export", tmp_path / "one.txt"], "one.txt"),
        (["--model-dir", tmp_path / "whole", images, "--load-epoch", 2], "an export, of one epoch"),
        (
            ["--model-dir", run, "--calibrate", "dac", "--export", tmp_path / "new"],
            "--calibrate is for answers, not for --export; python -m anprompt export",
        ),
        (
            [
                "--model-dir",
                run,
                images,
                "--calibrate",
                "dac",
                "--export-upstream",
                tmp_path / "new",
            ],
            "not for --export-upstream",
        ),
    ]:
        status, _, err = call(*arguments)
        assert status == 2, arguments
        assert message in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "new").exists()


def test_maps_of_images_on_several_drives_are_refused(monkeypatch, tmp_path):
    assert predict._folder_of([tmp_path / "a/x.png", tmp_path / "b/y.png"]) == tmp_path

    def as_on_windows(paths):
        raise ValueError("Paths don't have the same drive")

    with monkeypatch.context() as patch, pytest.raises(UsageError, match="--maps: .* one drive"):
        patch.setattr(predict.os.path, "commonpath", as_on_windows)
        predict._folder_of([tmp_path / "x.png"])
