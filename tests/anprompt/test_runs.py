"""A run's own settings: those of its method count, those of other methods do not."""

import pytest
import yaml
from yacs.config import CfgNode

from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg, methods_of
from anprompt.runs.folder import check_same_settings, record_config, recorded_config
from anprompt.runs.trained import read_cfg
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UsageError


@pytest.fixture
def cfg_of(tmp_path):
    def make(*options: str, trainer: str = "CoOp"):
        flags = ["--trainer", trainer, "--output-dir", str(tmp_path / "run"), "--seed", "1"]
        return build_cfg(make_parser().parse_args([*flags, *options]))

    (tmp_path / "run").mkdir()
    return make


def test_other_methods_may_change(cfg_of, tmp_path):
    """Whoever works on a method of their own must not put the others' runs out of date."""
    record_config(cfg_of())
    path = tmp_path / "run/config.yaml"
    content = yaml.safe_load(path.read_text())
    content["TRAINER"]["MAPLE"]["N_CTX"] = 7  # the default of an earlier version
    path.write_text(yaml.safe_dump(content))
    check_same_settings(cfg_of())
    with pytest.raises(ValueError, match="RUN.OTHER_METHODS"):  # somebody may read it: it was set
        check_same_settings(cfg_of("TRAINER.MAPLE.N_CTX", "7"))
    with pytest.raises(ValueError, match=r"TRAINER.COOP.N_CTX is 16 there, 7 now"):
        check_same_settings(cfg_of("TRAINER.COOP.N_CTX", "7"))
    with pytest.raises(ValueError, match="RUN.METHODS|TRAINER.NAME"):
        check_same_settings(cfg_of(trainer="MaPLe"))


def test_only_its_own_method_is_remembered(cfg_of, tmp_path):
    record_config(cfg_of(trainer="KgCoOp"))  # runs on CoOp's settings
    nodes = {key.split(".")[1] for key in recorded_config(tmp_path / "run") if "TRAINER." in key}
    assert nodes == {"NAME", "COOP"}


def test_a_trainer_that_builds_on_another_owns_both_nodes():
    class Mine(TRAINER_REGISTRY.get("KgCoOp")):
        @staticmethod
        def extend_cfg(cfg):
            cfg.TRAINER.MINE = CfgNode({"WEIGHT": 0.5})

    class Stock:
        pass

    assert methods_of(Mine) == ["COOP", "MINE"] and methods_of(Stock) == []
    assert methods_of(TRAINER_REGISTRY.get("ZeroshotCLIP2")) == ["COOP"]


def test_a_run_outlives_other_methods(cfg_of, tmp_path):
    record_config(cfg_of("TRAINER.COOP.N_CTX", "7"))
    path = tmp_path / "run/config.yaml"
    content = yaml.safe_load(path.read_text())
    content["TRAINER"]["GONE"] = {"PREC": "fp32"}
    content["TRAINER"]["MAPLE"]["OLD_NAME"] = 3
    path.write_text(yaml.safe_dump(content))
    cfg = read_cfg(tmp_path / "run")
    assert cfg.TRAINER.COOP.N_CTX == 7 and "GONE" not in cfg.TRAINER
    content["TRAINER"]["COOP"]["OLD_NAME"] = 3
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="OLD_NAME"):
        read_cfg(tmp_path / "run")
    path.write_text("no: settings\n")
    with pytest.raises(UsageError, match="config.yaml: not the settings of a run"):
        read_cfg(tmp_path / "run")
