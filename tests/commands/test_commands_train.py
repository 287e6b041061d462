"""train.py as a user meets it, on a tiny random CLIP and a fake EuroSAT, within this process."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import parse_test_res
import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["OPTIM.MAX_EPOCH", "2", "DATALOADER.NUM_WORKERS", "0", "DATASET.NUM_SHOTS", "4"]
BASE = ["DATASET.SUBSAMPLE_CLASSES", "base"]
NEW = ["DATASET.SUBSAMPLE_CLASSES", "new"]


def flags(data: Path, clip: Path, output: Path, **changes: str) -> list[str]:
    """The flags of a CoOp run; ``changes`` replace some of them."""
    given = {
        "root": data,
        "seed": 1,
        "trainer": "CoOp",
        "backbone": clip,
        "dataset_config_file": ROOT / "configs/datasets/eurosat.yaml",
        "config_file": ROOT / "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml",
        "output_dir": output,
        **changes,
    }
    return [part for name, value in given.items() for part in (_flag(name), str(value))]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def trained(fake_eurosat, tiny_clip_path, tmp_path_factory) -> Path:
    """The folder of a finished two-epoch CoOp run on base classes."""
    output = tmp_path_factory.mktemp("trained") / "seed1"
    assert train.main(flags(fake_eurosat, tiny_clip_path, output) + QUICK + BASE) == 0
    return output


@pytest.fixture
def run(fake_eurosat, tiny_clip_path, capsys):
    """Calls train.py; gives its status, stdout and stderr."""

    def call(output: Path, *more: str, options: list[str] = (*QUICK, *BASE), **changes: str):
        command = flags(fake_eurosat, tiny_clip_path, output, **changes)
        capsys.readouterr()
        try:
            status = train.main([*command, *more, *options])
        except SystemExit as end:  # argparse's own
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_help_names_every_flag_of_upstream(capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    flags_of_upstream = (
        "root output-dir resume seed source-domains target-domains transforms config-file "
        "dataset-config-file trainer backbone head eval-only model-dir load-epoch no-train"
    )
    for flag in (*flags_of_upstream.split(), "plugin"):
        assert f"--{flag}" in shown


def test_what_a_run_leaves_behind(trained):
    log = (trained / "log.txt").read_text()
    order = ["** Arguments **", "** Config **", "** System info **", "epoch [2/2]"]
    order += ["Finish training", "=> result", "* accuracy: "]
    positions = [log.index(text) for text in order]
    assert positions == sorted(positions)
    results = json.loads((trained / "results.json").read_text())
    assert results["finished"] is True
    assert (results["trainer"], results["dataset"], results["seed"]) == ("CoOp", "EuroSAT", 1)
    assert results["subsample_classes"] == "base"
    assert results["config"]["INPUT"]["SIZE"] == [64, 64]  # the backbone's, not the YAML's 224
    assert (trained / "config.yaml").is_file()
    assert (trained / "prompt_learner/model.pth.tar-2").is_file()
    assert not list(trained.rglob("*.tmp"))


def test_log_and_results_agree(trained, capsys):
    logged = parse_test_res.parse_log(trained / "log.txt")
    accuracy = json.loads((trained / "results.json").read_text())["accuracy"]
    assert logged == pytest.approx(accuracy, abs=0.05)
    assert parse_test_res.main([str(trained.parent)]) == 0
    assert f"* accuracy: {accuracy:.2f}%" in capsys.readouterr().out


def test_finished_run_is_skipped(trained, run):
    before = files_of(trained)
    status, out, _ = run(trained)
    assert status == 0
    assert out.startswith("Finished already") and len(out.splitlines()) == 1
    assert files_of(trained) == before


def test_other_settings_are_refused_and_nothing_is_touched(trained, run):
    before = files_of(trained)
    for options, key in (
        ([*QUICK, *NEW], "DATASET.SUBSAMPLE_CLASSES"),
        ([*QUICK, *BASE, "OPTIM.LR", "0.01"], "OPTIM.LR"),
    ):
        status, _, err = run(trained, options=options)
        assert status == 2
        assert key in err and str(trained) in err and len(err.splitlines()) == 1
    assert run(trained, seed="2")[0] == 2
    # Where things are and what is shown are no settings of this kind.
    assert run(trained, options=[*QUICK, *BASE, "TRAIN.PRINT_FREQ", "1"])[0] == 0
    assert files_of(trained) == before


def test_evaluation_on_new_classes(trained, run, tmp_path, monkeypatch):
    tested = tmp_path / "tested"
    evaluation = ["--eval-only", "--model-dir", str(trained)]
    status, _, err = run(tested, *evaluation, options=[*QUICK, *NEW])
    assert status == 0, err
    results = json.loads((tested / "results.json").read_text())
    assert results["subsample_classes"] == "new"
    assert parse_test_res.parse_log(tested / "log.txt", is_test_log=True) is not None
    assert "Finish training" not in (tested / "log.txt").read_text()

    before = files_of(tested)
    monkeypatch.chdir(trained.parent)  # the same model, named as seen from elsewhere
    elsewhere = ["--eval-only", "--model-dir", trained.name]
    _, out, _ = run(tested, *elsewhere, options=[*QUICK, *NEW])
    assert out.startswith("Finished already")
    assert files_of(tested) == before


def test_zero_shot_through_the_same_command(run, tmp_path):
    status, _, err = run(tmp_path / "run", "--eval-only", trainer="ZeroshotCLIP")
    assert status == 0, err
    assert json.loads((tmp_path / "run/results.json").read_text())["num_trainable"] == 0


def test_no_train_builds_and_leaves_nothing(run, tmp_path):
    status, out, _ = run(tmp_path / "run", "--no-train")
    assert status == 0 and "** Config **" in out
    assert not (tmp_path / "run").exists()


def test_interruption_says_how_to_go_on(run, tmp_path, monkeypatch):
    import dassl.engine

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(dassl.engine.TrainerX, "run_epoch", interrupted)
    status, _, err = run(tmp_path / "run")
    assert status == 130
    assert err.splitlines()[-1].startswith("train.py: interrupted")


def test_errors_of_the_program_itself_keep_their_traceback(run, tmp_path, monkeypatch):
    import dassl.engine

    def broken(self):
        raise ValueError("a bug")

    monkeypatch.setattr(dassl.engine.TrainerX, "run_epoch", broken)
    with pytest.raises(ValueError, match="a bug"):
        run(tmp_path / "run")


def test_traceback_on_request(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ANPROMPT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="Coop"):
        run(tmp_path / "run", trainer="Coop")


def test_plugin_registers_a_trainer(run, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from dassl.engine import TRAINER_REGISTRY\n"
        "from trainers.coop import CoOp\n"
        "from yacs.config import CfgNode\n\n\n"
        "@TRAINER_REGISTRY.register()\n"
        "class MineForATest(CoOp):\n"
        "    @staticmethod\n"
        "    def extend_cfg(cfg):\n"
        "        cfg.TRAINER.MINE = CfgNode({'WEIGHT': 0.5})\n"
    )
    options = [*QUICK, *BASE, "TRAINER.MINE.WEIGHT", "1"]
    more = ["--plugin", str(plugin), "--no-train"]
    status, out, err = run(tmp_path / "run", *more, trainer="MineForATest", options=options)
    assert status == 0, err
    assert "WEIGHT: 1.0" in out


# Bad input: (flags, options, words that the one line must hold)
BAD_INPUT = {
    "trainer": ({"trainer": "Coop"}, [], ["Coop", "CoOp"]),
    "data set": ({}, ["DATASET.NAME", "EuroSat"], ["EuroSat", "EuroSAT"]),
    "data set file": (
        {"dataset_config_file": "configs/datasets/eurosaat.yaml"}, [], ["eurosaat", "eurosat"],
    ),
    "method file": (
        {"config_file": str(ROOT / "configs/trainers/CoOp/vit_b61.yaml")}, [], ["vit_b16"],
    ),
    "config key": ({}, ["OPTIM.MAX_EPOCHS", "3"], ["OPTIM.MAX_EPOCHS", "OPTIM.MAX_EPOCH"]),
    "config value": ({}, ["OPTIM.MAX_EPOCH", "ten"], ["OPTIM.MAX_EPOCH", "ten"]),
    "config pair": ({}, ["OPTIM.LR"], ["OPTIM.LR", "alone"]),
    "flag after options": ({}, ["--seed", "2"], ["--seed", "before"]),
    "backbone": ({"backbone": "ViT-B/61"}, [], ["ViT-B/61", "ViT-B/16"]),
    "backbone file": ({"backbone": "./nothing.pt"}, [], ["nothing.pt"]),
    "transform": ({"transforms": "random_flop"}, [], ["random_flop", "random_flip"]),
    "transform in options": (
        {}, ["INPUT.TRANSFORMS", "('normalise',)"], ["normalise", "normalize"],
    ),
    "subsample": ({}, ["DATASET.SUBSAMPLE_CLASSES", "novel"], ["novel", "new"]),
    "precision": ({}, ["TRAINER.COOP.PREC", "fp8"], ["fp8", "fp16"]),
    "data folder": ({"root": "nowhere"}, [], ["nowhere", "EuroSAT"]),
    "no data folder": ({"root": ""}, [], ["EuroSAT", "--root"]),
    "plugin": ({"plugin": "missing.py"}, [], ["missing.py"]),
    "flag": ({"sede": "1"}, [], ["--sede"]),
    "task": ({"trainer": "ANPrompt"}, ["TASK", "B2M"], ["B2M", "B2N"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(case, run, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    changes, options, words = BAD_INPUT[case]
    status, _, err = run(tmp_path / "run", options=[*QUICK, *BASE, *options], **changes)
    assert status == 2
    assert len(err.splitlines()) == 1 and err.startswith("train.py: error: ")
    for word in words:
        assert word in err
    assert not (tmp_path / "run").exists()


def test_config_file_that_is_no_yaml(run, tmp_path):
    config = tmp_path / "config.yaml"
    for content in ("OPTIM: [1,\n", "- 1\n- 2\n", "OPTIM:\n  LRR: 1\n"):
        config.write_text(content)
        status, _, err = run(tmp_path / "run", config_file=str(config))
        assert status == 2
        assert str(config) in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("raise SystemExit", "SystemExit"),  # which would end the command as if it were done
        ("import sys\nsys.exit(0)", "line 2: SystemExit: 0"),
    ],
)
def test_plugin_that_fails(run, tmp_path, text, said):
    plugin = tmp_path / "broken.py"
    plugin.write_text(f"{text}\n")
    status, _, err = run(tmp_path / "run", "--plugin", str(plugin))
    assert status == 2
    assert "broken.py" in err and said in err and len(err.splitlines()) == 1


def test_missing_and_broken_images(fake_eurosat, run, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(fake_eurosat, root)
    shutil.rmtree(root / "eurosat/split_fewshot", ignore_errors=True)
    image = sorted((root / "eurosat/2750/Forest").iterdir())[0]
    image.write_bytes(image.read_bytes()[:50])
    every = ["OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "2", "DATASET.NUM_SHOTS", "-1"]
    status, _, err = run(tmp_path / "run", root=str(root), options=[*every, *BASE])
    assert status == 2
    assert str(image) in err.splitlines()[-1]
    image.unlink()
    status, _, err = run(tmp_path / "other", root=str(root), options=[*QUICK, *BASE])
    assert status == 2
    assert image.name in err and len(err.splitlines()) == 1


def test_one_class_is_refused(run, tmp_path):
    images = tmp_path / "images/only"
    images.mkdir(parents=True)
    from PIL import Image

    for number in range(8):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(images / f"{number}.png")
    config = str(ROOT / "configs/datasets/imagefolder.yaml")
    options = [*QUICK, "DATASET.IMAGE_DIR", str(images.parent)]
    status, _, err = run(tmp_path / "run", dataset_config_file=config, options=options)
    assert status == 2
    assert "class" in err and len(err.splitlines()) == 1


class TestCheckpoints:
    """--model-dir: what is missing, truncated or another model's is refused by name."""

    @pytest.fixture
    def copy(self, trained, tmp_path) -> Path:
        return Path(shutil.copytree(trained, tmp_path / "copy"))

    @pytest.fixture
    def evaluate(self, run, tmp_path):
        def call(model_dir: Path, *more: str, **changes: str) -> str:
            evaluation = ["--eval-only", "--model-dir", str(model_dir), *more]
            status, _, err = run(tmp_path / "out", *evaluation, options=[*QUICK, *NEW], **changes)
            assert status == 2
            assert len(err.splitlines()) == 1
            assert not (tmp_path / "out").exists()
            return err

        return call

    def test_nothing_there(self, evaluate, tmp_path):
        assert "nowhere" in evaluate(tmp_path / "nowhere")

    def test_epoch_that_was_not_kept(self, evaluate, copy):
        assert "model.pth.tar-7" in evaluate(copy, "--load-epoch", "7")

    def test_training_cut_short(self, evaluate, copy):
        learner = copy / "prompt_learner"
        (learner / "model.pth.tar-2").rename(learner / "model.pth.tar-1")
        err = evaluate(copy)  # where the file of its end was there already
        assert "model.pth.tar-2 is gone" in err and "--load-epoch" in err
        (learner / "checkpoint").write_text("model.pth.tar-1\n")
        err = evaluate(copy)
        assert "2 epochs" in err and "--load-epoch" in err

    def test_truncated(self, evaluate, copy):
        file = copy / "prompt_learner/model.pth.tar-2"
        content = file.read_bytes()[:200]
        file.write_bytes(content)
        assert str(file) in evaluate(copy)
        assert file.read_bytes() == content

    def test_foreign(self, evaluate, copy):
        file = copy / "prompt_learner/model.pth.tar-2"
        torch.save({"state_dict": {"something": torch.zeros(3)}, "epoch": 2}, file)
        assert str(file) in evaluate(copy)

    def test_resuming_from_a_truncated_one(self, run, copy):
        (copy / "results.json").unlink()
        file = copy / "prompt_learner/model.pth.tar-2"
        content = file.read_bytes()[:200]
        file.write_bytes(content)
        status, _, err = run(copy)
        assert status == 2
        assert str(file) in err.splitlines()[-1]
        assert file.read_bytes() == content and not (copy / "results.json").exists()

    def test_another_backbone(self, evaluate, copy, tiny_clip_path, tmp_path):
        other = tmp_path / "other.pt"
        shutil.copy(tiny_clip_path, other)
        err = evaluate(copy, backbone=str(other))
        assert str(other) in err and str(tiny_clip_path) in err

    def test_another_file_of_the_same_name(self, evaluate, run, copy):
        """The training is not read into weights that it was not made with, nor gone on with."""
        digest = re.search(r"WEIGHTS: '?(\w{16})'?", (copy / "config.yaml").read_text()).group(1)
        for file in (copy / "config.yaml", copy / "results.json"):
            file.write_text(file.read_text().replace(digest, "0" * 16))
        assert "other weights" in evaluate(copy)
        (copy / "results.json").unlink()
        status, _, err = run(copy)
        assert status == 2 and "RUN.WEIGHTS" in err.splitlines()[-1]


def test_train_py_is_light_until_it_has_work():
    """--help and misspelt flags are answered without loading torch."""

    program = (
        "import sys, train\nfrom anprompt.runs.arguments import make_parser\n"
        "make_parser()\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
