"""A run is recognised by what it was made of: settings, data, checkpoint. Times do not matter."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import train
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("circle", "cross", "square")
PER_CLASS = 6


@pytest.fixture
def images(tmp_path) -> Path:
    """Three classes of small pictures, and ``labels.csv`` beside them."""
    rng = random.Random(0)
    folder = tmp_path / "images"
    rows = ["path,label"]
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            colour = tuple(rng.randrange(256) for _ in range(3))
            Image.new("RGB", (20, 20), colour).save(folder / name / f"{number}.png")
            rows.append(f"{name}/{number}.png,{name}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def run(images, tiny_clip_path, tmp_path, capsys):
    """Calls train.py on these images; gives its status, stdout and stderr."""

    def call(output: str, *more: str, options: tuple = (), csv: bool = False, **changes: str):
        flags = {
            "trainer": "CoOp",
            "seed": "1",
            "backbone": str(tiny_clip_path),
            "dataset-config-file": str(ROOT / "configs/datasets/imagefolder.yaml"),
            "config-file": str(ROOT / "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml"),
            "output-dir": str(tmp_path / output),
            **changes,
        }
        command = [part for name, value in flags.items() for part in (f"--{name}", value)]
        settings = {
            "DATASET.IMAGE_DIR": str(images),
            "DATASET.NUM_SHOTS": "2",
            "OPTIM.MAX_EPOCH": "2",
            "DATALOADER.NUM_WORKERS": "0",
        } | ({"DATASET.CSV": str(tmp_path / "labels.csv")} if csv else {})
        settings |= dict(zip(options[::2], options[1::2], strict=True))
        capsys.readouterr()
        pairs = [part for pair in settings.items() for part in pair]
        status = train.main([*command, *more, *pairs])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture
def stopped(run, monkeypatch):
    """Starts a training that is interrupted once its first epoch is on disk."""
    import dassl.engine.trainer

    def call(*arguments, **options):
        after_epoch = dassl.engine.trainer.SimpleTrainer.after_epoch

        def stop(self):
            after_epoch(self)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(dassl.engine.trainer.SimpleTrainer, "after_epoch", stop)
            assert run(*arguments, **options)[0] == 130

    return call


def add_class(images: Path) -> None:
    shutil.copytree(images / "cross", images / "aaa")


def correct_label(images: Path) -> None:
    table = images.parent / "labels.csv"
    table.write_text(table.read_text().replace("circle/0.png,circle", "circle/0.png,square"))


def rename_class(images: Path) -> None:
    (images / "circle").rename(images / "ring")


def repaint(images: Path) -> None:
    for path in images.rglob("*.png"):
        Image.new("RGB", (20, 20), (1, 2, 3)).save(path)


CHANGES = {
    "class added": (add_class, False, "the list of training images"),
    "label corrected": (correct_label, True, "or classes"),
    "class renamed": (rename_class, False, "the list of training images or classes"),
    "pictures painted over": (repaint, False, "the files of training images"),
}


def files_of(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("change", CHANGES)
def test_data_that_changed_are_noticed(run, stopped, images, tmp_path, change):
    alter, csv, named = CHANGES[change]
    assert run("finished", csv=csv)[0] == 0
    stopped("unfinished", csv=csv)
    alter(images)
    for output, what in (("finished", "a finished run"), ("unfinished", "an unfinished run")):
        before = files_of(tmp_path / output)
        status, _, err = run(output, csv=csv)
        assert status == 2 and len(err.splitlines()) == 1
        assert f"{tmp_path / output} holds {what} on other data" in err and named in err
        assert files_of(tmp_path / output) == before


def test_times_places_and_copies_are_not_looked_at(run, images, tmp_path):
    assert run("run")[0] == 0
    for path in (*images.rglob("*"), *(tmp_path / "run").rglob("*")):
        os.utime(path, (1, 1))
    status, out, _ = run("run")
    assert status == 0 and out.startswith("Finished already") and len(out.splitlines()) == 1
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert run("copy")[1].startswith("Finished already")


def test_a_finished_run_outlives_its_data(run, images):
    assert run("run")[0] == 0
    shutil.rmtree(images)
    status, out, _ = run("run")
    assert status == 0 and out.startswith("Finished already")
    assert f"its data were not compared (ImageFolder: no folder {images}" in out


def test_data_may_be_mended_before_the_first_checkpoint(run, images, tmp_path, monkeypatch):
    """Nothing that was computed is gone on with."""
    import dassl.engine

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dassl.engine.TrainerX, "run_epoch", interrupted)
        assert run("run")[0] == 130
    add_class(images)
    assert run("run")[0] == 0
    assert json.loads((tmp_path / "run/results.json").read_text())["classnames"][0] == "aaa"


def test_what_is_recorded(run, tmp_path):
    assert run("run")[0] == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    identity = json.loads((tmp_path / "run/identity.json").read_text())
    assert results["identity"] == identity
    assert identity["checkpoint"] == {} and identity["initial"] == ""
    assert {"train", "val", "test", "few_shot", "train_files"} <= set(identity["data"])
    assert len(identity["settings"]) == len(identity["weights"]) == 16
    assert "--output-dir" in results["command"] and results["command"].startswith("python train.py")
    assert results["code"]["version"] and results["host"] and results["date"]


class TestEvaluation:
    @pytest.fixture
    def evaluate(self, run, tmp_path):
        assert run("trained")[0] == 0

        def call(*more: str, options: tuple = (), model_dir: str = "trained", **changes):
            flags = ("--eval-only", "--model-dir", str(tmp_path / model_dir), *more)
            return run("tested", *flags, options=options, **changes)

        status, _, err = call()
        assert status == 0, err
        return call

    def test_it_knows_the_checkpoint_it_read(self, evaluate, tmp_path):
        identity = json.loads((tmp_path / "tested/identity.json").read_text())
        assert list(identity["checkpoint"]) == ["prompt_learner/model.pth.tar-2"]
        for path in (tmp_path / "trained").rglob("*"):
            os.utime(path)  # as if all were written now
        assert evaluate()[1].startswith("Finished already")

    def test_another_checkpoint_is_evaluated_whatever_its_time(self, evaluate, tmp_path):
        path = tmp_path / "trained/prompt_learner/model.pth.tar-2"
        content = load_checkpoint(str(path))
        content["state_dict"]["ctx"] *= -1
        save_checkpoint(content, str(path.parent))
        os.utime(path, (1, 1))
        status, out, _ = evaluate()
        assert status == 0 and "results of another checkpoint; it is evaluated again" in out
        assert "=> result" in out
        assert evaluate()[1].startswith("Finished already")

    def test_a_best_model_that_appears_is_another_checkpoint(self, evaluate, tmp_path):
        folder = tmp_path / "trained/prompt_learner"
        shutil.copy(folder / "model.pth.tar-2", folder / "model-best.pth.tar")
        status, out, _ = evaluate()
        assert status == 0 and "evaluated again" in out
        assert "model-best" in (tmp_path / "tested/identity.json").read_text()

    def test_an_evaluation_outlives_its_training(self, evaluate, tmp_path):
        shutil.rmtree(tmp_path / "trained")
        status, out, _ = evaluate()
        assert status == 0 and "its checkpoint was not compared" in out

    def test_test_images_that_changed(self, evaluate, images):
        (images / "cross/new.png").write_bytes((images / "cross/0.png").read_bytes())
        status, _, err = evaluate()
        assert status == 2 and "on other data" in err

    def test_settings_of_the_model_are_the_trainings(self, evaluate, tmp_path):
        shutil.rmtree(tmp_path / "tested")
        for options in (
            ("TRAINER.COOP.N_CTX", "4", "TRAINER.COOP.CTX_INIT", ""),
            ("INPUT.PIXEL_MEAN", "(0.1,0.2,0.3)"),
        ):
            status, _, err = evaluate(options=options)
            assert status == 2 and options[0] in err and "training" in err
        assert not (tmp_path / "tested").exists()

    def test_a_training_cut_short_has_no_best_model(self, evaluate, tmp_path):
        folder = tmp_path / "trained/prompt_learner"
        (folder / "model.pth.tar-2").rename(folder / "model-best.pth.tar")
        (folder / "checkpoint").write_text("model-best.pth.tar\n")
        (folder.parent / "results.json").unlink()
        shutil.rmtree(tmp_path / "tested")
        status, _, err = evaluate()
        assert status == 2 and "training has 2 epochs but only the best is kept" in err


class TestEarlierVersions:
    """Runs made before digests were recorded are recognised by what they did record."""

    @pytest.fixture
    def old(self, run, tmp_path) -> Path:
        assert run("old")[0] == 0
        folder = tmp_path / "old"
        (folder / "identity.json").unlink()
        results = json.loads((folder / "results.json").read_text())
        for key in ("identity", "code", "date", "host", "command"):
            del results[key]
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    def test_finished(self, run, old):
        status, out, _ = run("old")
        assert status == 0 and out.startswith("Finished already")
        assert "made before runs recorded digests" in out and len(out.splitlines()) == 1

    def test_unfinished(self, run, old):
        (old / "results.json").unlink()
        assert run("old")[0] == 0
        assert json.loads((old / "results.json").read_text())["identity"]["data"]

    def test_their_settings_are_compared(self, run, old):
        assert run("old", options=("DATASET.NUM_SHOTS", "1"))[0] == 2


def test_results_of_other_settings_in_the_folder(run, tmp_path):
    """As when results.json was copied there, and config.yaml was not."""
    assert run("run")[0] == 0
    path = tmp_path / "run/results.json"
    results = json.loads(path.read_text())
    results["config"]["SEED"] = 7
    path.write_text(json.dumps(results))
    status, _, err = run("run")
    assert status == 2 and "SEED is 7 there, 1 now" in err


NONSENSE = [
    {"accuracy": "NaN"}, {"accuracy": 999.0}, {"accuracy": -1}, {"accuracy": "83"},
    {"accuracy": None}, {"accuracy": [50]}, {"accuracy": True}, {"per_class": {"circle": 101}},
    {"per_class": []}, {"rules": {"mix": {"accuracy": 1e9}}}, {"rules": 5}, {"config": []},
    {"error": 40.0}, {"rules": {"mix": {"accuracy": 49.0}}, "headline_rule": "mix"},
    {"classnames": "abc"}, {"macro_f1": {}}, {"identity": 3}, {"identity": {"data": [1]}},
]  # fmt: skip


@pytest.mark.parametrize("change", NONSENSE, ids=str)
def test_results_that_no_test_gives_are_not_believed(run, tmp_path, change, finished_run):
    shutil.copytree(finished_run, tmp_path / "run")
    path = tmp_path / "run/results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change).replace('"NaN"', "NaN"))
    status, out, err = run("run")
    assert status == 2 and str(path) in err and len(err.splitlines()) == 1
    assert "Finished" not in out


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"finished": true}', "\0", "[" * 9999])
def test_results_that_are_damaged(run, tmp_path, content, finished_run):
    shutil.copytree(finished_run, tmp_path / "run")
    path = tmp_path / "run/results.json"
    path.write_text(content)
    status, _, err = run("run")
    assert status == 2 and str(path) in err and len(err.splitlines()) == 1


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """The files of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "config.yaml").write_text(yaml.safe_dump({"SEED": 1}))
    results = {"finished": True, "accuracy": 50.0, "config": {"SEED": 1}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


class TestResume:
    """--resume DIR: what the old training brings along, and what may be new."""

    @pytest.fixture
    def resume(self, run, tmp_path):
        assert run("first")[0] == 0

        def call(*options: str):
            flags = ("--resume", str(tmp_path / "first"))
            return run("second", *flags, options=("OPTIM.MAX_EPOCH", "3", *options))

        return call

    def test_more_epochs(self, resume, run, tmp_path):
        status, _, err = run("first", options=("OPTIM.MAX_EPOCH", "3"))
        assert status == 2 and f"To train on from it: --resume {tmp_path / 'first'}" in err
        status, out, err = resume()
        assert status == 0, err
        assert "epoch [3/3]" in out and "epoch [2/3]" not in out
        assert json.loads((tmp_path / "second/results.json").read_text())["epochs"] == 3

    def test_fewer_epochs(self, resume, tmp_path):
        status, _, err = resume("OPTIM.MAX_EPOCH", "1")
        assert status == 2 and "2 epochs were trained there, OPTIM.MAX_EPOCH is 1" in err
        assert not (tmp_path / "second").exists()

    def test_as_many_epochs(self, resume, tmp_path):
        assert resume("OPTIM.MAX_EPOCH", "2")[0] == 0
        one, other = (
            torch.load(tmp_path / name / "prompt_learner/model.pth.tar-2", weights_only=True)
            for name in ("first", "second")
        )
        assert torch.equal(one["state_dict"]["ctx"], other["state_dict"]["ctx"])

    @pytest.mark.parametrize(
        "options", [("OPTIM.LR", "0.9"), ("OPTIM.MOMENTUM", "0.1"), ("TRAINER.COOP.CSC", "True")]
    )
    def test_what_the_old_optimiser_would_overrule(self, resume, tmp_path, options):
        status, _, err = resume(*options)
        assert status == 2 and options[0] in err and "INIT_WEIGHTS" in err
        assert not (tmp_path / "second").exists()

    def test_nothing_new_without_an_epoch(self, resume, tmp_path):
        """The old model would stand in tables as one of the new shots."""
        status, _, err = resume("OPTIM.MAX_EPOCH", "2", "DATASET.NUM_SHOTS", "3")
        assert status == 2 and "DATASET.NUM_SHOTS was 2, is 3" in err
        assert f"test it with --eval-only --model-dir {tmp_path / 'first'}" in err
        assert len(err.splitlines()) == 1 and not (tmp_path / "second").exists()

    def test_what_may_be_new_is_said_and_kept(self, resume, run, tmp_path):
        status, out, _ = resume("DATASET.NUM_SHOTS", "3")
        said = "DATASET.NUM_SHOTS was 2, is 3 from here on"
        assert status == 0 and f"Resumed from {tmp_path / 'first'}: {said}" in out
        data = (
            "from here on other data: the images drawn for training, the files of training images"
        )
        results = json.loads((tmp_path / "second/results.json").read_text())
        assert results["identity"]["resumed"] == [said, data]
        assert "resumed" not in json.loads((tmp_path / "first/identity.json").read_text())

        # Taken up in its own folder without the flag: the same training.
        (tmp_path / "second/results.json").unlink()
        shots = ("DATASET.NUM_SHOTS", "3")
        assert run("second", options=("OPTIM.MAX_EPOCH", "3", *shots))[0] == 0
        results = json.loads((tmp_path / "second/results.json").read_text())
        assert results["identity"]["resumed"] == [said, data]

        # A training that goes on from that one has the same behind it.
        more = ("--resume", str(tmp_path / "second"))
        assert run("third", *more, options=("OPTIM.MAX_EPOCH", "4", *shots))[0] == 0
        assert json.loads((tmp_path / "third/results.json").read_text())["identity"]["resumed"]

    def test_other_classes(self, resume, images, tmp_path):
        """Classes in another order would be answered for by each other's tensors."""
        status, _, err = resume("DATASET.SUBSAMPLE_CLASSES", "base")
        assert status == 2 and "trained on other classes" in err and "INIT_WEIGHTS" in err
        (images / "circle").rename(images / "triangle")
        status, _, err = resume()
        assert status == 2 and "trained on other classes" in err
        assert not (tmp_path / "second/config.yaml").exists()

    def test_other_images_are_said_whatever_is_shown(self, resume, run, images, tmp_path):
        for path in images.rglob("*.png"):
            path.write_bytes(path.read_bytes() + b" ")
        more = ("--resume", str(tmp_path / "first"), "--quiet")
        status, out, err = run("second", *more, options=("OPTIM.MAX_EPOCH", "3"))
        assert status == 0, err
        assert out.count("from here on other data: the files of training images") == 1


@pytest.mark.parametrize("name", ["words.json", "words"])
def test_descriptions_are_part_of_a_run(name, run, tmp_path):
    file = tmp_path / name
    file.write_text(json.dumps({name: [f"a {name} with one edge"] for name in CLASSES}))
    options = ("TRAINER.COPROMPT.DESCRIPTIONS", str(file), "OPTIM.MAX_EPOCH", "1")
    config = str(ROOT / "configs/trainers/CoPrompt/coprompt.yaml")
    how = {"trainer": "CoPrompt", "config-file": config, "options": options}
    assert run("first", **how)[0] == 0
    status, out, _ = run("first", **how)
    assert status == 0 and "Finished already" in out
    file.write_text(json.dumps({name: [f"a {name} on grass"] for name in CLASSES}))
    status, _, err = run("first", **how)
    assert status == 2 and "the file that TRAINER.COPROMPT.DESCRIPTIONS names" in err
    file.unlink()  # nothing to compare with: it is as it was
    assert run("first", **how)[0] == 0


def test_own_code_is_part_of_a_run(run, tmp_path, monkeypatch):
    """The plugin's file and what it imports from beside itself; nothing else that lies there."""
    monkeypatch.setattr(TRAINER_REGISTRY, "_objects", dict(TRAINER_REGISTRY._objects))
    plugin, helper = tmp_path / "mine_of_test.py", tmp_path / "helper_of_test.py"
    plugin.write_text(
        "from dassl.engine import TRAINER_REGISTRY\nfrom trainers.coop import CoOp\n"
        "from helper_of_test import WORD\n\n"
        "@TRAINER_REGISTRY.register()\nclass MineOfTest(CoOp):\n    word = WORD\n"
    )
    helper.write_text("from package_of_test.inner import WORD\n")
    (tmp_path / "package_of_test").mkdir()
    (tmp_path / "package_of_test" / "inner.py").write_text("from word_of_test import WORD\n")
    word = tmp_path / "word_of_test.py"  # beside the plugin, not beside what imports it
    word.write_text("WORD = 'one'\n")
    (tmp_path / "beside.py").write_text("")
    how = {"trainer": "MineOfTest", "options": ("OPTIM.MAX_EPOCH", "1")}
    more = ("--plugin", str(plugin))
    assert run("own", *more, **how)[0] == 0
    assert run("stock", *more)[0] == 0
    (tmp_path / "beside.py").write_text("EDITED = True\n")
    assert "Finished already" in run("own", *more, **how)[1]
    word.write_text("WORD = 'two'\n")
    status, _, err = run("own", *more, **how)
    assert status == 2 and "what has changed: the code of --plugin" in err
    how["options"] = ("OPTIM.MAX_EPOCH", "1", "DATASET.NUM_SHOTS", "2")
    test = ("--eval-only", "--model-dir", str(tmp_path / "own"))
    assert run("test", *more, *test, **how)[0] == 0
    plugin.write_text(plugin.read_text() + "\n# another word\n")
    status, _, err = run("test", *more, *test, **how)
    assert status == 2 and "the code of --plugin" in err
    assert "Finished already" in run("stock", *more)[1]


def test_what_is_wrong_with_descriptions_names_setting_and_file(run, tmp_path):
    file = tmp_path / "words.json"
    file.write_text(json.dumps({"boat": ["a boat"]}))
    config = str(ROOT / "configs/trainers/CoPrompt/coprompt.yaml")
    key = "TRAINER.COPROMPT.DESCRIPTIONS"
    for number, (options, said) in enumerate(
        [
            ((key, str(file)), f"{key}: {file}: no entry for class"),
            ((key, str(tmp_path / "none")), f"{key}: {tmp_path / 'none'}: no such file"),
            (
                ("TRAINER.COPROMPT.CTX_INIT", "photo"),
                "TRAINER.COPROMPT.CTX_INIT 'photo' has fewer words",
            ),
        ]
    ):
        how = {"trainer": "CoPrompt", "config-file": config, "options": options}
        status, _, err = run(f"new{number}", **how)
        assert status == 2 and said in err
