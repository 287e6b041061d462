"""Protocols: every method has every script, and each of their runs is made on fake data.

The commands are planned in this process; train.py then runs them here, shortened.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from anprompt.commands import run as run_command
from anprompt.protocols import environment as environments
from anprompt.protocols.methods import all_methods
from anprompt.protocols.plan import PROTOCOLS
from common import cli
from dassl.engine import TRAINER_REGISTRY

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
METHODS = [method.name for method in all_methods()]
WRAPPERS = {
    "base2new_train": "base2new {} train",
    "base2new_test": "base2new {} test",
    "xd_train": "crossdata {} train",
    "xd_test": "crossdata {} test",
    "few_shot": "fewshot {}",
}
QUICK = ["OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", "TRAIN.PRINT_FREQ", "100"]
VARIABLES = ("DATA", "OUTPUT", "BACKBONE", "CFG", "PLUGIN", "SHOTS", "SOURCE", "LOADEP", "DRY_RUN")


@pytest.fixture(scope="module")
def data(fake_eurosat, tmp_path_factory) -> Path:
    """EuroSAT; and what is called Caltech101 here, four of EuroSAT's classes."""
    root = tmp_path_factory.mktemp("datasets")
    (root / "eurosat").symlink_to(fake_eurosat / "eurosat")
    split = json.loads((fake_eurosat / "eurosat/split_zhou_EuroSAT.json").read_text())
    caltech = root / "caltech-101"
    caltech.mkdir()
    (caltech / "101_ObjectCategories").symlink_to(fake_eurosat / "eurosat/2750")
    few = {part: [entry for entry in entries if entry[1] < 4] for part, entries in split.items()}
    (caltech / "split_zhou_Caltech101.json").write_text(json.dumps(few))
    return root


@pytest.fixture
def commands(data, tiny_clip_path, tmp_path, monkeypatch, capsys):
    """Calls a script's command with DRY_RUN; the arguments of the train.py calls that it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "clip"))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def call(script: str, *arguments: str, **environment: str) -> list[list[str]]:
        given = {"OUTPUT": "out", "DATA": data, "BACKBONE": tiny_clip_path, "DRY_RUN": "1"}
        with monkeypatch.context() as patch:
            for name, value in {**given, **environment}.items():
                patch.setenv(name, str(value))
            words = script.split("/")
            if len(words) == 2:
                words = WRAPPERS[words[1]].format(words[0]).split()
            capsys.readouterr()
            status = cli.run(run_command.main, "anprompt run", [*words, *arguments])
        printed = capsys.readouterr()
        if status:
            raise ChildProcessError(f"status {status}: {printed.err}")
        lines = list(map(shlex.split, printed.out.splitlines()))
        assert all(line[:2] == environments.TRAIN for line in lines)
        return [line[2:] for line in lines]

    return call


@pytest.fixture
def run(commands, capsys):
    """Calls a script's command that makes one run, makes the run; its folder's results."""

    def call(script: str, *arguments: str, **environment: str) -> dict:
        (command,) = commands(script, *arguments, *QUICK, **environment)
        assert train.main(command) == 0, capsys.readouterr().err
        folder = Path(value_of(command, "--output-dir"))
        return {**json.loads((folder / "results.json").read_text()), "folder": folder}

    return call


def value_of(command: list[str], name: str) -> str:
    """The value that counts: the last one given."""
    last = max(index for index, word in enumerate(command) if word == name)
    return command[last + 1]


def run_of(results: dict, output: Path) -> tuple[str, ...]:
    """The parts of a run's folder, those of method, configuration and seed left out."""
    assert results["folder"].name == "seed1"
    assert results["folder"].parents[1].name == results["trainer"]
    return results["folder"].relative_to(output).parts[:-3]


def test_every_wrapper_is_one_call():
    for method in METHODS:
        for name, words in WRAPPERS.items():
            lines = (ROOT / "scripts" / method / f"{name}.sh").read_text().splitlines()
            (code,) = [line for line in lines if not line.startswith("#")]
            layout, *rest = words.format(method).split()
            script = f'exec bash "$(dirname "${{BASH_SOURCE[0]}}")/../{layout}.sh" {" ".join(rest)}'
            assert code == f'{script} "$@"'
            assert any(f"bash scripts/{method}/{name}.sh " in line for line in lines)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_part_in_every_protocol(method, commands):
    trained = []
    for name, words in WRAPPERS.items():
        given = {"few_shot": ["eurosat", "4", "1"], "xd_train": ["caltech101", "1"]}
        arguments = given.get(name, ["eurosat", "1"])
        (command,) = commands(f"{method}/{name}", *arguments, SOURCE="caltech101")
        assert Path(value_of(command, "--config-file")).is_file()
        layout = words.split()[0]
        assert value_of(command, "TASK") == PROTOCOLS[layout].task
        evaluates = name.endswith("_test")
        output = value_of(command, "--output-dir")
        if "--model-dir" in command:
            assert evaluates and value_of(command, "--model-dir") in trained
        elif "--eval-only" not in command:
            assert not evaluates
            trained.append(output)
        assert Path(output).parts[:2] == ("out", layout)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_cross_dataset_from_four_classes_to_ten(method, run):
    source = run(f"{method}/xd_train", "caltech101", "1", SHOTS="1")
    assert run_of(source, Path("out")) == ("crossdata", "train", "caltech101", "shots_1")
    assert (source["dataset"], source["subsample_classes"]) == ("Caltech101", "all")
    assert len(source["per_class"]) == 4
    target = run(f"{method}/xd_test", "eurosat", "1", SHOTS="1", SOURCE="caltech101")
    parts = ("crossdata", "test", "caltech101", "eurosat", "shots_1")
    assert run_of(target, Path("out")) == parts
    assert (target["dataset"], target["subsample_classes"]) == ("EuroSAT", "all")
    assert len(target["per_class"]) == 10
    if source["headline_rule"] == "mix":  # a method that knows the source from other data sets
        assert target["headline_rule"] == "class"
        assert set(target["rules"]) == {"mix", "class"}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_few_shot_on_all_classes(method, run):
    results = run(f"{method}/few_shot", "eurosat", "1", "1")
    assert run_of(results, Path("out")) == ("fewshot", "eurosat", "shots_1")
    assert (results["shots"], results["subsample_classes"]) == (1, "all")
    assert len(results["per_class"]) == 10
    assert results["headline_rule"] != "class" or not results["rules"]


@pytest.mark.slow
def test_base_to_new_with_the_same_scripts(run):
    base = run("anprompt/base2new_train", "eurosat", "1", "--", SHOTS="1")
    new = run("anprompt/base2new_test", "eurosat", "1", "--", SHOTS="1")
    assert (base["subsample_classes"], new["subsample_classes"]) == ("base", "new")
    assert (base["headline_rule"], new["headline_rule"]) == ("mix", "class")


def test_the_command_line_of_train_py(commands, data):
    """Argument by argument, as upstream's users and older runs know it."""
    Path("my own.py").write_text("")
    (command,) = commands(
        "coop/base2new_test", "eurosat", "2", "--", "OPTIM.MAX_EPOCH", "3",
        BACKBONE="small", LOADEP="2", PLUGIN="my own.py",
    )  # fmt: skip
    below = "eurosat/shots_16/CoOp/vit_b16_ctxv1-small/seed2"
    assert command == [
        "--root", str(data), "--seed", "2", "--trainer", "CoOp", "--plugin", "my own.py",
        "--backbone", "small",
        "--config-file", str(ROOT / "configs/trainers/CoOp/vit_b16_ctxv1.yaml"),
        "--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml"),
        "--output-dir", f"out/base2new/test_new/{below}", "--eval-only",
        "--model-dir", f"out/base2new/train_base/{below}", "--load-epoch", "2",
        "DATASET.NUM_SHOTS", "16", "TASK", "B2N", "DATASET.SUBSAMPLE_CLASSES", "new",
        "OPTIM.MAX_EPOCH", "3",
    ]  # fmt: skip
    (trained,) = commands("coop/xd_train", "caltech101", "1", BACKBONE="ViT-B/16", LOADEP="2")
    assert "--load-epoch" not in trained and "--eval-only" not in trained
    assert trained[-6:] == [
        "DATASET.NUM_SHOTS", "16", "DATASET.SUBSAMPLE_CLASSES", "all", "TASK", "CD",
    ]  # fmt: skip


def test_folders_name_backbone_and_configuration(commands):
    def folder(script: str, *arguments: str, **environment: str) -> str:
        (command,) = commands(script, *arguments, **environment)
        return value_of(command, "--output-dir")

    coop = ("coop/base2new_train", "eurosat", "1")
    assert folder(*coop, BACKBONE="ViT-B/16").endswith("/CoOp/vit_b16_ctxv1/seed1")
    tagged = folder("coop/base2new_train", "imagenet", "1", BACKBONE="ViT-B-32::laion2b_e16")
    assert "/CoOp/vit_b16_ep50_ctxv1-ViT-B-32__laion2b_e16/seed1" in tagged
    assert "/shots_4/CoOp/rn50-small/" in folder(*coop, BACKBONE="small", CFG="rn50", SHOTS="4")
    anprompt = ("anprompt/base2new_train", "eurosat", "1")
    ablation = {"CFG": "ablations/no_noise"}
    assert folder(*anprompt, BACKBONE="small", **ablation).endswith("/no_noise-small/seed1")
    # As these folders have been called since there are ablations.
    assert "/no_noise-ViT-B_16/" in folder(*anprompt, BACKBONE="ViT-B/16", **ablation)
    assert folder(*coop, OUTPUT="").startswith(str(ROOT / "output/base2new"))


def test_seeds_and_shots_as_lists_and_by_default(commands):
    def runs(*call: str, **environment: str) -> list[tuple[str, str]]:
        made = commands(*call, **environment)
        return [(value_of(c, "DATASET.NUM_SHOTS"), value_of(c, "--seed")) for c in made]

    one = runs("coop/few_shot", "eurosat", "4")  # PromptSRC's arguments
    assert one == [("4", "1"), ("4", "2"), ("4", "3")]
    all_of_them = runs("coop/few_shot", "eurosat")  # MMRL's
    assert len(all_of_them) == 15 and ("16", "3") in all_of_them
    assert runs("coop/few_shot", "eurosat", "1,2", "5", "--", "OPTIM.LR", "1") == [
        ("1", "5"),
        ("2", "5"),
    ]
    assert runs("coop/few_shot", "eurosat", "OPTIM.LR", "1", SHOTS="8")[0] == ("8", "1")
    assert runs("coop/xd_train", "caltech101", "1,2") == [("16", "1"), ("16", "2")]
    (by_environment,) = commands("coop/xd_train", "3", SOURCE="eurosat")  # CoCoOp's argument
    assert "crossdata/train/eurosat" in value_of(by_environment, "--output-dir")


def test_schedule_grows_with_shots_as_in_coops_paper(commands):
    made = commands("coop/few_shot", "eurosat", "1,2,4,8,16", "1")
    names = [Path(value_of(command, "--config-file")).stem for command in made]
    assert names == ["vit_b16_ep50", "vit_b16_ep100", "vit_b16_ep100", "vit_b16", "vit_b16"]


def test_seeds_left_out_are_upstreams_three(commands):
    for script, arguments in (("mmrl/base2new_train", ["eurosat"]), ("coop/xd_train", [])):
        made = commands(script, *arguments, SOURCE="caltech101")
        assert [value_of(command, "--seed") for command in made] == ["1", "2", "3"]
    (one,) = commands("mmrl/base2new_train", "eurosat", "2", "OPTIM.MAX_EPOCH", "3")
    assert value_of(one, "--seed") == "2" and value_of(one, "OPTIM.MAX_EPOCH") == "3"
    made = commands("mmrl/base2new_train", "eurosat", "OPTIM.MAX_EPOCH", "3")
    assert [value_of(command, "OPTIM.MAX_EPOCH") for command in made] == ["3"] * 3


def test_bad_input_is_said_in_one_line(commands):
    def fail(*call: str, **environment: str) -> str:
        with pytest.raises(ChildProcessError, match="^status 2") as caught:
            commands(*call, **environment)
        (line,) = [line for line in str(caught.value).splitlines() if "error:" in line]
        return line

    trained = "run scripts/coop/xd_train.sh imagenet 1 first"
    assert trained in fail("coop/xd_test", "eurosat", "1", DRY_RUN="")
    assert "eurosat is the source" in fail("coop/xd_test", "eurosat", "1", SOURCE="eurosat")
    assert "'0.5': expected SEED" in fail("coop/xd_test", "eurosat", "0.5")
    assert "needs DATASET" in fail("coop/xd_test")
    assert "needs DATASET" in fail("coop/few_shot")
    assert "DATA is not set" in fail("coop/few_shot", "eurosat", "1", DATA="")
    assert "nowhere: no such folder" in fail("coop/few_shot", "eurosat", "1", DATA="nowhere")
    assert "no method 'nothing'" in fail("crossdata", "nothing", "train", "eurosat", "1")
    assert "nearest: coop" in fail("crossdata", "copo", "train", "eurosat", "1")
    assert "expected train or test" in fail("crossdata", "coop")
    assert "nearest: eurosat" in fail("coop/few_shot", "eurosatt", "1")
    config = fail("coop/few_shot", "eurosat", "1", CFG="vit_b61")
    assert "no configuration 'vit_b61'" in config and "nearest: vit_b16" in config
    assert "SHOTS 'x'" in fail("coop/base2new_train", "eurosat", "1", SHOTS="x")


def test_a_failure_ends_the_command_with_its_status(commands, tmp_path, monkeypatch):
    stand_in = tmp_path / "train.sh"
    stand_in.write_text('echo "$4" >> ran; [ "$4" != 2 ] || exit 7\n')
    monkeypatch.setattr(environments, "TRAIN", ["bash", str(stand_in)])
    with pytest.raises(ChildProcessError, match="^status 7"):
        commands("coop/base2new_train", "eurosat", "1,2,3", DRY_RUN="")
    assert (tmp_path / "ran").read_text().split() == ["1", "2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_command_ends_its_run(number, tmp_path):
    """SIGTERM reaches this process alone, Ctrl-C all of the terminal's: the run ends and is 130."""
    stand_in = tmp_path / "train.sh"
    stand_in.write_text("trap 'echo ended >> ran; exit 130' INT TERM\necho began >> ran\n"
                        "for _ in {1..600}; do sleep 0.1; done\n")  # fmt: skip
    program = (
        "import sys; from anprompt.protocols import environment; "
        "environment.TRAIN = ['bash', sys.argv[1]]; from anprompt.__main__ import main; "
        "sys.exit(main(['run', 'base2new', 'coop', 'train', 'shapes', '1,2']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(stand_in)], cwd=tmp_path, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OUTPUT": "out"}, stderr=subprocess.DEVNULL,
        # What a shell starts in the background, as CI may, ignores Ctrl-C; this one does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    ran = tmp_path / "ran"
    deadline = time.monotonic() + 60
    while not ran.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(60) == 130
    assert ran.read_text().split() == ["began", "ended"]


def test_a_signal_that_comes_while_the_run_starts_is_passed_on(monkeypatch):
    start = subprocess.Popen

    def told_meanwhile(command):
        process = start(command)
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(subprocess, "Popen", told_meanwhile)
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert run_command._call(waits) == 128 + signal.SIGTERM


def test_the_configurations_own_backbone_where_it_is_at_hand(commands, tmp_path):
    (one,) = commands("coop/base2new_train", "eurosat", "1", BACKBONE="")
    assert value_of(one, "--backbone") == "small"
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/ViT-B-16.pt").touch()
    (own,) = commands("coop/base2new_train", "eurosat", "1", BACKBONE="")
    assert value_of(own, "--backbone") == "ViT-B/16"
    (other,) = commands("coop/base2new_train", "eurosat", "1", BACKBONE="", CFG="rn50")
    assert value_of(other, "--backbone") == "small"
    (named,) = commands("coop/base2new_train", "eurosat", "1", BACKBONE="small")
    assert value_of(named, "--backbone") == "small"


def test_contexts_of_each_class_are_refused_for_other_classes(commands, run, capsys):
    csc = ["TRAINER.COOP.CSC", "True", "TRAINER.COOP.CTX_INIT", "", "DATASET.NUM_SHOTS", "1"]
    run("coop/base2new_train", "eurosat", "1", *csc)
    (same_number,) = commands("coop/base2new_test", "eurosat", "1", *csc, *QUICK)
    run("coop/xd_train", "caltech101", "1", *csc)
    (another_number,) = commands("coop/xd_test", "eurosat", "1", *csc, *QUICK, SOURCE="caltech101")
    for command in (same_number, another_number):
        capsys.readouterr()
        assert train.main(command) == 2
        error = capsys.readouterr().err
        assert "TRAINER.COOP.CSC" in error and len(error.splitlines()) == 1
        assert not Path(value_of(command, "--output-dir")).exists()


def test_domain_generalisation_is_cross_dataset_with_other_targets(commands):
    (trained,) = commands("mmrl/xd_train", "imagenet", "1")
    (tested,) = commands("mmrl/xd_test", "imagenet_a", "1")
    assert "crossdata/test/imagenet/imagenet_a/shots_16" in value_of(tested, "--output-dir")
    assert value_of(tested, "--config-file") == value_of(trained, "--config-file")
    assert value_of(tested, "--model-dir") == value_of(trained, "--output-dir")


MINE = """
from dassl.engine import TRAINER_REGISTRY
from trainers.coop import CoOp

@TRAINER_REGISTRY.register()
class MyMethod(CoOp): ...
"""


def test_a_plugins_trainer_takes_part(commands, monkeypatch):
    monkeypatch.setattr(TRAINER_REGISTRY, "_objects", dict(TRAINER_REGISTRY._objects))
    Path("mine.py").write_text(MINE)
    Path("my.yaml").write_text("MODEL: {BACKBONE: {NAME: small}}\n")
    environment = {"PLUGIN": "mine.py", "CFG": "my.yaml", "BACKBONE": "small"}
    (command,) = commands("base2new", "MyMethod", "train", "shapes", "1", **environment)
    assert value_of(command, "--trainer") == "MyMethod"
    assert value_of(command, "--plugin") == "mine.py"
    assert value_of(command, "--config-file") == "my.yaml"
    assert value_of(command, "--output-dir").endswith("/MyMethod/my/seed1")
    with pytest.raises(ChildProcessError, match="no method 'MyMethods'"):
        commands("base2new", "MyMethods", "train", "shapes", "1", **environment)
    with pytest.raises(ChildProcessError, match="MyMethod=FILE.yaml"):
        commands("base2new", "MyMethod", "train", "shapes", "1", **{**environment, "CFG": ""})
