"""ANPrompt's ablations: every file says one difference to the whole method."""

from pathlib import Path

import pytest

from anprompt.commands import ablations
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg, default_cfg
from anprompt.runs.recorded import flatten
from dassl.utils import UsageError

ROOT = Path(__file__).resolve().parents[2]
FULL = ROOT / "configs/trainers/ANPrompt/vit_b16.yaml"
ABLATIONS = sorted((FULL.parent / "ablations").glob("*.yaml"))


def settings(path: Path) -> dict:
    cfg = default_cfg()
    cfg.merge_from_file(path)
    return flatten(cfg)


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_changes_the_method_and_nothing_else(path):
    full, ablated = settings(FULL), settings(path)
    changed = {key for key in full if full[key] != ablated[key]}
    assert changed
    assert all(key.startswith("TRAINER.ANPROMPT.") for key in changed)


def test_each_part_of_the_method_can_be_left_out():
    changes = {
        "no_noise_prompts": ("NOISE.PROMPTS", False),
        "no_wa_loss": ("WA_WEIGHT", 0.0),
        "no_sim_loss": ("SIM_WEIGHT", 0.0),
        "no_nrvpp": ("ALPHA", 1.0),
    }
    for name, (key, value) in changes.items():
        path = FULL.parent / "ablations" / f"{name}.yaml"
        assert settings(path)[f"TRAINER.ANPROMPT.{key}"] == value


def test_base_of_a_base_and_errors(tmp_path):
    (tmp_path / "a.yaml").write_text("OPTIM:\n  LR: 0.5\n  MAX_EPOCH: 3\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.yaml").write_text("_BASE_: ../a.yaml\nOPTIM:\n  LR: 0.25\n")
    (tmp_path / "c.yaml").write_text("_BASE_: sub/b.yaml\nSEED: 4\n")
    found = settings(tmp_path / "c.yaml")
    assert (found["OPTIM.LR"], found["OPTIM.MAX_EPOCH"], found["SEED"]) == (0.25, 3, 4)
    (tmp_path / "circle.yaml").write_text("_BASE_: circle.yaml\n")
    with pytest.raises(UsageError, match="circle"):
        settings(tmp_path / "circle.yaml")
    (tmp_path / "lost.yaml").write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(UsageError, match="no such config file"):
        settings(tmp_path / "lost.yaml")
    (tmp_path / "wrong.yaml").write_text("_BASE_: a.yaml\nOPTIM:\n  LRR: 1\n")
    with pytest.raises(UsageError, match=r"wrong\.yaml: unknown config key OPTIM\.LRR"):
        settings(tmp_path / "wrong.yaml")


def test_flags_and_options_come_after_the_file():
    options = ["INPUT.SIZE", "(64,64)", "OPTIM.MAX_EPOCH", "2"]
    flags = ["--trainer", "ANPrompt", "--config-file", str(ABLATIONS[0])]
    args = make_parser().parse_args([*flags, *options])
    assert build_cfg(args).OPTIM.MAX_EPOCH == 2


def test_unknown_ablations_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT", str(tmp_path / "output"))
    with pytest.raises(UsageError, match="no ablation 'no_such_thing'.*no_wa_loss"):
        ablations.main(["shapes", "1", "no_such_thing"])
    assert not (tmp_path / "output").exists()
