"""anprompt compare: one command from a folder of images to table and report."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from written_runs import write_results

from anprompt.commands import compare
from common.errors import UsageError

pytestmark = pytest.mark.slow


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "my things"
    for i, name in enumerate(("red", "green", "blue", "grey")):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            colour = [60 + 10 * number] * 3
            if i < 3:
                colour[i] = 255
            Image.new("RGB", (32, 32), tuple(colour)).save(folder / name / f"{number}.png")
    return folder


def test_what_is_wrong_is_listed_before_anything_is_trained(images, tmp_path, monkeypatch, capsys):
    (images / "red" / "0.png").write_bytes(b"")
    (images / "blue" / "1.png").write_text("<html>")
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    with pytest.raises(UsageError, match="nothing was trained"):
        compare.main([str(images)])
    listed = capsys.readouterr().out
    assert "red/0.png" in listed and "blue/1.png" in listed
    assert "class 'blue' has 5 image(s)" in listed and "a split takes 17 or more" in listed
    assert not (tmp_path / "out").exists()


def test_too_few_images_are_said_once(images, tmp_path, monkeypatch, capsys):
    """The split that nobody asked for, of images in 50, 20 and 30%, has no say."""
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    for path in sorted((images / "red").iterdir())[1:]:
        path.unlink()
    with pytest.raises(UsageError, match="nothing was trained"):
        compare.main([str(images), "--shots", "1"])
    listed = capsys.readouterr().out
    assert "class 'red' has 1 image(s); a split takes 2 or more of each" in listed
    assert listed.count("a split takes") == 1


def test_the_best_run_is_one_on_these_images(tmp_path):
    def run(name, accuracy, **more):
        write_results(tmp_path / name, "CoOp", "ImageFolder", accuracy, **more)

    run("other", 99, dataset_title="other")
    run("new", 98, dataset_title="mine", part="new")
    assert compare.best_run(tmp_path, "mine") is None
    write_results(tmp_path / "known", "CoOp", "mine", 99, dataset_title="mine")  # no own images
    run("mine", 50, dataset_title="mine")
    run("better", 60, dataset_title="mine", seed=2)
    (tmp_path / "anomaly").mkdir()
    found = {"finished": True, "task": "anomaly", "image_auroc": 90.0, "image_ap": 90.0}
    (tmp_path / "anomaly" / "results.json").write_text(json.dumps(found))
    assert compare.best_run(tmp_path, "mine") == str(tmp_path / "better")


def test_the_folder_has_the_name_of_the_images():
    assert compare.output_for("my pets!") == "output_my_pets"
    assert compare.output_for("猫") == "output_猫" and compare.output_for("Füße") == "output_Füße"
    assert compare.output_for("?!") != compare.output_for("!?")
    for title in ('a<b>c:d"e/f\\g|h?i*j', "a\x00\x1f\x7fj", "a. ", "::", "…"):
        assert re.fullmatch(r"output_\w+", compare.output_for(title)), title


def test_runs_with_other_images_for_testing_are_refused_first(images, tmp_path, monkeypatch):
    """They would be trained, and the table refused at the end."""
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    config = {"DATASET": {"TRAIN_PER_CLASS": 2}}
    known = {"dataset_title": "my things", "config": config}
    write_results(tmp_path / "out/a", "ZeroshotCLIP", "ImageFolder", 50, **known)
    flags = [str(images), "--methods", "zsclip", "--seeds", "1"]
    monkeypatch.setattr(compare.sweep, "run", lambda *_: pytest.fail("went on"))
    with pytest.raises(UsageError, match="2 of each class were for training, now 1.*--shots 2,1"):
        compare.main([*flags, "--shots", "1"])
    monkeypatch.setattr(compare.sweep, "run", lambda *_: 2)
    assert compare.main([*flags, "--shots", "2"]) == 2  # the same split
    for split, names in (("train", "0123"), ("test", "4")):
        for path in images.glob(f"*/[{names}].png"):
            place = images / split / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
    for name in ("red", "green", "blue", "grey"):
        (images / name).rmdir()
    assert compare.main([*flags, "--shots", "1"]) == 2  # test images are given


def test_the_check_says_what_will_be_trained_on(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    monkeypatch.setenv("DRY_RUN", "1")
    assert compare.main([str(images), "--shots", "1,3", "--methods", "zsclip"]) == 0
    assert "4 classes, 12 train, 0 val, 8 test images" in capsys.readouterr().out


def test_folder_that_is_not_there():
    with pytest.raises(UsageError, match="no such folder"):
        compare.main(["/nowhere/at/all"])


def test_shots_that_are_no_number(images):
    with pytest.raises(UsageError, match="--shots"):
        compare.main([str(images), "--shots", "many"])


@pytest.mark.slow
@pytest.mark.parametrize("base2new", [False, True])
def test_table_and_report(images, tmp_path, monkeypatch, capsys, base2new):
    output = tmp_path / "out"
    monkeypatch.setenv("OUTPUT", str(output))
    monkeypatch.delenv("DATA", raising=False)
    argv = [str(images), "--methods", "zsclip,coop", "--shots", "2", "--seeds", "1"]
    argv += ["--cfg", "coop=vit_b16_ep50_ctxv1"] + ["--base2new"] * base2new
    argv += ["--", "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"]
    assert compare.main(argv) == 0
    shown, said = capsys.readouterr()
    run = re.search(r"predict --model-dir (\S+) IMAGES", said)
    assert run and (Path(run[1]) / "results.json").is_file()
    assert "my things" in shown and "ZeroshotCLIP" in shown and "CoOp" in shown
    assert "my things" in (output / "report.html").read_text(encoding="utf-8")
    assert "CoOp" in (output / "table.tex").read_text(encoding="utf-8")
    results = [json.loads(path.read_text()) for path in output.rglob("results.json")]
    assert all(result["takes_all"] for result in results), "2 of 2 images, whatever the seed"
    tested = {result["num_test"] for result in results}
    assert tested == ({6} if base2new else {12})  # 3 of 5 images of every class
    for path in output.rglob("results.json"):
        assert json.loads(path.read_text())["finished"] is True
