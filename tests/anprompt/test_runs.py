"""A run's configuration: its own method's settings, checked; what earlier runs recorded."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from yacs.config import CfgNode

from anprompt.runs.arguments import make_parser
from anprompt.runs.checkpoints import epoch_to_load
from anprompt.runs.config import build_cfg, compare_with_training, default_cfg, load_plugin
from anprompt.runs.declared import extend_cfgs_of
from anprompt.runs.folder import check_same_settings
from anprompt.runs.recorded import flatten, of_own_method, record_config, recorded_config
from anprompt.runs.trained import read_cfg
from common.errors import UsageError
from dassl.engine import TRAINER_REGISTRY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cfg_of(tmp_path):
    def make(*options: str, trainer: str = "CoOp"):
        flags = ["--trainer", trainer, "--output-dir", str(tmp_path / "run"), "--seed", "1"]
        return build_cfg(make_parser().parse_args([*flags, *options]))

    (tmp_path / "run").mkdir()
    return make


def nodes(cfg) -> set[str]:
    return set(cfg.TRAINER) - {"NAME"}


@pytest.fixture
def registered():
    """Registers trainers as a plugin does, for one test."""
    before = dict(TRAINER_REGISTRY._objects)
    yield lambda cls: TRAINER_REGISTRY.register(cls, force=True)
    TRAINER_REGISTRY._objects.clear()
    TRAINER_REGISTRY._objects.update(before)


def test_a_configuration_has_its_own_methods_settings_only(cfg_of):
    for trainer, node in (("CoOp", "COOP"), ("KgCoOp", "COOP"), ("MMRLpp", "MMRLpp")):
        assert nodes(cfg_of(trainer=trainer)) == {node}
    assert "W" in cfg_of(trainer="KgCoOp").TRAINER.COOP
    assert "W" not in cfg_of(trainer="CoOp").TRAINER.COOP


def test_the_trainer_is_read_from_the_last_place_that_names_it(cfg_of, tmp_path):
    (tmp_path / "c.yaml").write_text("TRAINER:\n  NAME: MaPLe\n  VPT:\n    N_CTX_VISION: 3\n")
    file = ("--config-file", str(tmp_path / "c.yaml"))
    with pytest.raises(UsageError, match="unknown trainer .* 'Copo'; nearest known: CoOp"):
        cfg_of(trainer="Copo")
    assert nodes(cfg_of(*file, "TRAINER.NAME", "VPT", trainer="CoOp")) == {"VPT"}
    assert nodes(cfg_of(*file, trainer="")) == {"MAPLE"}
    with pytest.raises(UsageError, match="no trainer is named: --trainer NAME, one of ANPrompt,"):
        cfg_of(trainer="")


def test_settings_of_other_methods_have_no_effect(cfg_of, caplog):
    with caplog.at_level("INFO"):
        cfg = cfg_of("TRAINER.MAPLE.N_CTX", "7", "TRAINER.COOP.N_CTX", "4")
    assert nodes(cfg) == {"COOP"} and cfg.TRAINER.COOP.N_CTX == 4
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the command line: TRAINER.MAPLE.N_CTX has no effect: it is a setting of MaPLe"]


@pytest.mark.parametrize("trainer", ["CoPrompt", "FAP", "NAPTuning"])
def test_settings_of_a_base_that_has_been_replaced_have_no_effect(trainer, cfg_of, caplog):
    with caplog.at_level("INFO"):
        cfg = cfg_of("TRAINER.MAPLE.N_CTX", "7", trainer=trainer)
    assert nodes(cfg) == {trainer.upper()}
    assert "TRAINER.MAPLE.N_CTX has no effect: it is a setting of MaPLe" in caplog.text


def test_a_plugin_of_its_own_method_has_its_bases_settings_too(cfg_of, registered):
    class Mine(TRAINER_REGISTRY.get("FAP")):
        method = "MINE"

        @staticmethod
        def extend_cfg(cfg):
            cfg.TRAINER.MINE = CfgNode({"WEIGHT": 0.5})

    registered(Mine)
    assert {"FAP", "MINE"} <= nodes(cfg_of("TRAINER.MINE.WEIGHT", "2", trainer="Mine"))


def test_task_and_template_exist_for_every_trainer(cfg_of):
    for trainer in ("CoOp", "ZeroshotCLIP", "MMRL"):
        cfg = cfg_of("TASK", "FS", "DATASET.TEMPLATE", "an X-ray of {}.", trainer=trainer)
        assert (cfg.TASK, cfg.DATASET.TEMPLATE) == ("FS", "an X-ray of {}.")
    with pytest.raises(UsageError, match="TASK 'B2M': takes one of B2N, FS, CD"):
        cfg_of("TASK", "B2M")


def test_a_trainer_that_builds_on_another_has_both_nodes(cfg_of, registered):
    class Mine(TRAINER_REGISTRY.get("KgCoOp")):
        @staticmethod
        def extend_cfg(cfg):
            cfg.TRAINER.MINE = CfgNode({"WEIGHT": 0.5})

    registered(Mine)
    assert len(extend_cfgs_of(Mine)) == 4  # of PromptTrainer, CoOp, KgCoOp and itself
    cfg = cfg_of("TRAINER.MINE.WEIGHT", "2", trainer="Mine")
    assert nodes(cfg) == {"COOP", "MINE"} and cfg.TRAINER.MINE.WEIGHT == 2.0
    with pytest.raises(UsageError, match="TRAINER.MINE.WEIGHT takes float, got 'x'"):
        cfg_of("TRAINER.MINE.WEIGHT", "x", trainer="Mine")
    with pytest.raises(UsageError, match="TRAINER.MINE.WEIGHT inf: takes a finite number"):
        cfg_of("TRAINER.MINE.WEIGHT", "1e999", trainer="Mine")


def test_a_trainer_written_for_dassl_may_read_any_methods_settings(cfg_of, registered):
    class Stock:
        pass

    class Other:
        @staticmethod
        def extend_cfg(cfg):
            cfg.TRAINER.OTHER = CfgNode({"N": 1})

    registered(Stock)
    registered(Other)
    everything = nodes(default_cfg())
    assert {"COOP", "MAPLE", "ANPROMPT"} < everything
    assert nodes(cfg_of(trainer="Stock")) == everything
    assert nodes(cfg_of(trainer="Other")) == everything | {"OTHER"}
    assert cfg_of(trainer="Stock").INPUT.PIXEL_MEAN == [0.485, 0.456, 0.406]  # Dassl's
    with pytest.raises(UsageError, match="TRAINER.PLOT.N.*extend_cfg"):
        cfg_of("TRAINER.PLOT.N", "4", trainer="Stock")


def test_a_plugin_takes_a_name_of_this_repositorys(cfg_of, registered, tmp_path, caplog):
    plugin = tmp_path / "taking.py"
    plugin.write_text(
        "from dassl.engine import TRAINER_REGISTRY, TrainerX\n\n"
        "@TRAINER_REGISTRY.register()\nclass CoOp(TrainerX):\n    pass\n"
    )
    with caplog.at_level("INFO"):
        cfg = cfg_of("--plugin", str(plugin), trainer="CoOp")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["trainer CoOp is plugin_taking's, not trainers.coop's"]
    assert nodes(cfg) > {"COOP", "MAPLE"}  # a trainer written for Dassl
    stock = tmp_path / "stock.py"  # reads KgCoOp's weight, which its own train.py declares
    stock.write_text(plugin.read_text().replace("CoOp", "KgCoOp"))
    cfg = cfg_of("--plugin", str(stock), "TRAINER.COOP.W", "4.0", trainer="KgCoOp")
    assert cfg.TRAINER.COOP.W == 4.0
    for name in ("notes.txt", "nowhere.py"):
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(UsageError, match=name):
            load_plugin(str(tmp_path / name))


# What earlier versions recorded ---------------------------------------------------------------


def earlier(cfg) -> dict:
    """What a run of a version recorded that had all methods' settings in it."""
    content = yaml.safe_load(cfg.dump())
    content["TRAINER"]["MAPLE"] = {"N_CTX": 7}
    content["TRAINER"]["COOP"]["W"] = 8.0  # KgCoOp's
    content["TRAINER"]["GONE"] = {"PREC": "fp32"}
    content["RUN"] |= {"METHODS": ["COOP"], "OTHER_METHODS": ["TRAINER.MAPLE.N_CTX 7"]}
    return content


def test_earlier_runs_are_recognised(cfg_of, tmp_path):
    cfg = cfg_of("TRAINER.COOP.N_CTX", "7")
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(earlier(cfg)))
    assert "TRAINER.MAPLE.N_CTX" not in recorded_config(tmp_path / "run")
    check_same_settings(cfg)
    assert read_cfg(tmp_path / "run").TRAINER == cfg.TRAINER
    with pytest.raises(ValueError, match=r"TRAINER.COOP.N_CTX is 7 there, 16 now"):
        check_same_settings(cfg_of())
    with pytest.raises(ValueError, match="TRAINER.NAME"):
        check_same_settings(cfg_of(trainer="MaPLe"))
    record_config(cfg)
    check_same_settings(cfg)


def test_a_setting_that_came_later_stood_at_something_before(cfg_of, tmp_path):
    content = yaml.safe_load(cfg_of(trainer="CLIPLoRA").dump())
    assert content["TRAINER"]["CLIPLORA"].pop("STEPS_PER_SHOT") == 5
    assert content["TRAINER"]["CLIPLORA"].pop("CTX_INIT") == ""
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(content))
    assert recorded_config(tmp_path / "run")["TRAINER.CLIPLORA.STEPS_PER_SHOT"] == 0
    check_same_settings(cfg_of("TRAINER.CLIPLORA.STEPS_PER_SHOT", "0", trainer="CLIPLoRA"))
    with pytest.raises(UsageError, match="STEPS_PER_SHOT is 0 there, 5 now"):
        check_same_settings(cfg_of(trainer="CLIPLoRA"))
    words = cfg_of("TRAINER.CLIPLORA.CTX_INIT", "a photo of a", trainer="CLIPLoRA")
    with pytest.raises(UsageError, match="CTX_INIT 'a photo of a': the training has ''"):
        compare_with_training(words, recorded_config(tmp_path / "run"))
    record_config(cfg_of())
    assert "TRAINER.CLIPLORA.STEPS_PER_SHOT" not in recorded_config(tmp_path / "run")


def test_all_images_are_asked_for_by_any_number_below_1(cfg_of):
    record_config(cfg_of("DATASET.NUM_SHOTS", "0"))
    check_same_settings(cfg_of("DATASET.NUM_SHOTS", "-1"))
    with pytest.raises(UsageError, match="DATASET.NUM_SHOTS is -1 there, 1 now"):
        check_same_settings(cfg_of("DATASET.NUM_SHOTS", "1"))


def test_an_optimisers_settings_are_nothing_to_what_is_not_trained(cfg_of):
    record_config(cfg_of("--eval-only", "OPTIM.MAX_EPOCH", "3", trainer="ZeroshotCLIP"))
    check_same_settings(cfg_of("--eval-only", "OPTIM.MAX_EPOCH", "4", trainer="ZeroshotCLIP"))
    with pytest.raises(UsageError, match="TEST.SPLIT is 'test' there, 'val' now"):
        check_same_settings(cfg_of("--eval-only", "TEST.SPLIT", "val", trainer="ZeroshotCLIP"))
    record_config(cfg_of("OPTIM.MAX_EPOCH", "3"))
    with pytest.raises(UsageError, match="OPTIM.MAX_EPOCH is 3 there, 4 now"):
        check_same_settings(cfg_of("OPTIM.MAX_EPOCH", "4"))


def test_what_a_run_recorded_is_checked(cfg_of, tmp_path):
    path = tmp_path / "run/config.yaml"
    content = earlier(cfg_of())
    content["TRAINER"]["COOP"]["OLD_NAME"] = 3
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="config.yaml: unknown config key TRAINER.COOP.OLD_NAME"):
        read_cfg(tmp_path / "run")
    content = earlier(cfg_of())
    content["OPTIM"]["LR"] = float("nan")
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="config.yaml: OPTIM.LR nan"):
        read_cfg(tmp_path / "run")
    path.write_text("no: settings\n")
    with pytest.raises(UsageError, match="config.yaml: not the settings of a run"):
        read_cfg(tmp_path / "run")
    for text in ("[" * 10000, "TRAINER: 3\n", "TRAINER:\n  NAME: Nobody\n"):
        path.write_text(text)
        with pytest.raises(UsageError, match="config.yaml"):
            read_cfg(tmp_path / "run")


def test_runs_that_do_not_name_their_method_keep_all():
    assert of_own_method({"TRAINER.A.X": 1}) == {"TRAINER.A.X": 1}


# Evaluation against training ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("INPUT.PIXEL_MEAN", "[0.5, 0.5, 0.5]"),
        ("INPUT.PIXEL_STD", "[1, 1, 1]"),
        ("INPUT.INTERPOLATION", "nearest"),
        ("INPUT.TRANSFORMS", "['random_flip']"),
        ("TRAINER.ANPROMPT.ALPHA", "0.0"),
        ("TRAINER.ANPROMPT.BETA", "0.0"),
        ("TRAINER.ANPROMPT.LAYERS", "[5, 6, 7, 8, 9, 10, 11]"),
        ("TRAINER.ANPROMPT.N_TOKENS", "4"),
    ],
)
def test_an_evaluation_takes_the_trainings_settings(cfg_of, option, value):
    file = ("--config-file", str(ROOT / "configs/trainers/ANPrompt/vit_b16.yaml"))
    trained = flatten(cfg_of(*file, "--backbone", "small", trainer="ANPrompt"))
    here = cfg_of(*file, "--backbone", "small", option, value, trainer="ANPrompt")
    with pytest.raises(UsageError, match=rf"{option} .*: DIR has .*, and an evaluation"):
        compare_with_training(here, trained, "DIR")


def test_what_may_differ_in_an_evaluation(cfg_of):
    file = ("--config-file", str(ROOT / "configs/trainers/ANPrompt/vit_b16.yaml"))
    flags = (*file, "--backbone", "small")
    trained = flatten(cfg_of(*flags, trainer="ANPrompt"))
    data = (
        "DATASET.NAME",
        "Food101",
        "DATASET.SUBSAMPLE_CLASSES",
        "new",
        "TASK",
        "CD",
        "SEED",
        "2",
    )
    training = ("OPTIM.LR", "0.1", "TRAINER.ANPROMPT.NOISE.RATE", "0.3", "INPUT.CROP_PADDING", "1")
    transforms = ("INPUT.TRANSFORMS", "['normalize']")
    here = cfg_of(*flags, *data, *training, *transforms, trainer="ANPrompt")
    assert compare_with_training(here, trained) == []
    here = cfg_of(*flags, "TRAINER.ANPROMPT.INFERENCE", "mix", trainer="ANPrompt")
    assert compare_with_training(here, trained) == [
        "TRAINER.ANPROMPT.INFERENCE 'mix' (the training has 'auto')"
    ]
    del trained["TRAINER.ANPROMPT.INFERENCE"]  # an earlier version's
    assert compare_with_training(here, trained) == []


# Without PyTorch ------------------------------------------------------------------------------


def test_a_configuration_is_built_without_pytorch():
    program = (
        "import sys\n"
        "from anprompt.runs.config import build_cfg\n"
        "from anprompt.runs.arguments import make_parser\n"
        "build_cfg(make_parser().parse_args(sys.argv[1:]))\n"
        "print([name for name in ('torch', 'sklearn', 'torchvision') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, "--trainer", "ANPrompt", "--backbone", "small"]
    default_cfg()  # the settings are in the cache from here on
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_a_last_checkpoint_that_is_gone_is_named(tmp_path):
    """Training again would refuse the folder, whose pointer names the file."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"OPTIM": {"MAX_EPOCH": 3}}))
    folder = tmp_path / "prompt_learner"
    folder.mkdir()
    (folder / "model.pth.tar-1").touch()
    with pytest.raises(UsageError, match="3 epochs but only 1 is kept. Run the training command"):
        epoch_to_load(str(tmp_path), "prompt_learner", 3)
    (folder / "checkpoint").write_text("model.pth.tar-3\n")
    with pytest.raises(
        UsageError, match=r"tar-3 is gone; put it back, .*--load-epoch \(there: 1\)"
    ):
        epoch_to_load(str(tmp_path), "prompt_learner", 3)
