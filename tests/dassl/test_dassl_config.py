"""The configuration: upstream's defaults, merging, and what wrong input says."""

import os
import pickle
import time

import pytest
from dassl_toy import few
from hypothesis import given
from hypothesis import strategies as st
from yacs.config import CfgNode

from common.settings import Setting, declare
from dassl.config import check_config, defaults, get_cfg_default
from dassl.data.samplers import SAMPLERS
from dassl.data.transforms import INTERPOLATION_MODES
from dassl.optim.lr_scheduler import AVAI_SCHEDS, AVAI_WARMUPS
from dassl.optim.optimizer import AVAI_OPTIMS
from dassl.utils import UsageError


def test_defaults_are_upstreams():
    cfg = get_cfg_default()
    expected = {
        "OPTIM.NAME": "adam",
        "OPTIM.LR": 0.0003,
        "OPTIM.WEIGHT_DECAY": 5e-4,
        "OPTIM.MOMENTUM": 0.9,
        "OPTIM.STEPSIZE": (-1,),
        "OPTIM.WARMUP_EPOCH": -1,
        "OPTIM.WARMUP_TYPE": "linear",
        "INPUT.SIZE": (224, 224),
        "INPUT.INTERPOLATION": "bilinear",
        "INPUT.RRCROP_SCALE": (0.08, 1.0),
        "INPUT.PIXEL_MEAN": [0.485, 0.456, 0.406],
        "DATALOADER.NUM_WORKERS": 4,
        "DATALOADER.TRAIN_X.SAMPLER": "RandomSampler",
        "TRAIN.PRINT_FREQ": 10,
        "TEST.FINAL_MODEL": "last_step",
        "SEED": -1,
        "VERSION": 1,
    }
    for key, value in expected.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert node == value, key


def test_every_copy_is_free_to_change():
    get_cfg_default().OPTIM.LR = 1.0
    assert get_cfg_default().OPTIM.LR == 0.0003


def test_yaml_in_upstreams_spelling(tmp_path):
    path = tmp_path / "vit.yaml"
    path.write_text(
        'INPUT:\n  SIZE: (64, 64)\n  TRANSFORMS: ["random_flip", "normalize"]\n'
        "OPTIM:\n  LR: 2e-3\n  WARMUP_CONS_LR: 1e-5\n"
    )
    cfg = get_cfg_default()
    cfg.merge_from_file(str(path))
    assert cfg.INPUT.SIZE == (64, 64)
    assert cfg.INPUT.TRANSFORMS == ("random_flip", "normalize")
    assert cfg.OPTIM.LR == 0.002
    assert cfg.OPTIM.WARMUP_CONS_LR == 1e-5


def test_a_trainers_plain_yacs_node_can_be_merged_into(tmp_path):
    cfg = get_cfg_default()
    cfg.TRAINER.COOP = CfgNode()
    cfg.TRAINER.COOP.N_CTX = 16
    cfg.TRAINER.TABLE = CfgNode(new_allowed=True)  # nobody described it
    path = tmp_path / "coop.yaml"
    path.write_text("TRAINER:\n  COOP:\n    N_CTX: 4\n  TABLE:\n    EuroSAT: 0.01\n")
    cfg.merge_from_file(str(path))
    assert cfg.TRAINER.COOP.N_CTX == 4
    assert cfg.TRAINER.TABLE.EuroSAT == 0.01


def test_whole_number_for_a_float():
    cfg = get_cfg_default()
    cfg.merge_from_list(["OPTIM.LR", "1"])
    assert cfg.OPTIM.LR == 1.0
    assert isinstance(cfg.OPTIM.LR, float)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["OPTIM.LRR", "1"], ["OPTIM.LRR", "OPTIM.LR"]),
        (["OPTM.MAX_EPOCH", "1"], ["OPTM.MAX_EPOCH", "OPTIM.MAX_EPOCH"]),
        (["OPTIM.LR.X", "1"], ["OPTIM.LR.X"]),
        (["OPTIM.LR", "fast"], ["OPTIM.LR 'fast'", "number above 0", "learning rate"]),
        (["OPTIM", "3"], ["OPTIM", "group of settings"]),
        (["SEED", "1.5"], ["SEED 1.5", "whole number"]),
        (["SEED", "1" * 5000], ["SEED '1111", "whole number"]),
        (["OPTIM.LR", "1e999"], ["OPTIM.LR inf"]),
        (["OPTIM.LR", "(" * 1500], ["OPTIM.LR '(((", "..."]),
        (["OPTIM.MOMENTUM", "nan"], ["OPTIM.MOMENTUM 'nan'"]),
        (["INPUT.PIXEL_STD", "[-1, -1, -1]"], ["INPUT.PIXEL_STD [-1, -1, -1]", "3 items"]),
        (["INPUT.TRANSFORMS", "random_flip"], ["INPUT.TRANSFORMS 'random_flip'", "a list"]),
        (["DATASET.ROOT", "None"], ["DATASET.ROOT None", "text"]),
        (["TRAINER.PLOT.N", "4"], ["TRAINER.PLOT.N", "extend_cfg"]),
        (["OPTIM.LR"], ["OPTIM.LR", "KEY VALUE"]),
    ],
)
def test_wrong_options_are_named_and_change_nothing(options, named):
    cfg = get_cfg_default()
    with pytest.raises(UsageError) as error:
        cfg.merge_from_list(["OPTIM.GAMMA", "0.5", *options])
    for part in named:
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert cfg == get_cfg_default()


@pytest.mark.parametrize("text", ["[1, 2]", "word", "OPTIM:\n  LR: 1\n NAME: 2\n", "OPTIM: [1"])
def test_file_without_settings(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="bad.yaml"):
        get_cfg_default().merge_from_file(str(path))


def test_missing_file():
    with pytest.raises(UsageError, match="nowhere.yaml"):
        get_cfg_default().merge_from_file("nowhere.yaml")


def test_frozen_configuration_travels_to_workers():
    cfg = get_cfg_default()
    cfg.freeze()
    copy = pickle.loads(pickle.dumps(cfg))
    assert copy == cfg
    assert copy.is_frozen()


@few
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_taken_or_refused_in_one_line(key, value):
    cfg = get_cfg_default()
    try:
        cfg.merge_from_list([key, value])
    except UsageError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert cfg == get_cfg_default()


@few
@given(
    st.fixed_dictionaries(
        {
            "OPTIM.LR": st.floats(1e-9, 10),
            "OPTIM.MAX_EPOCH": st.integers(1, 1000),
            "OPTIM.STEPSIZE": st.lists(st.integers(-1, 100), min_size=1).map(sorted).map(tuple),
            "DATASET.ROOT": st.text(st.characters(categories=["L"])).map("/data/{}".format),
            "USE_CUDA": st.booleans(),
        }
    )
)
def test_values_survive_the_command_line(values):
    cfg = get_cfg_default()
    cfg.merge_from_list([text for key, value in values.items() for text in (key, str(value))])
    other = get_cfg_default()
    other.merge_from_other_cfg(cfg)
    for key, value in values.items():
        node = other
        for part in key.split("."):
            node = node[part]
        assert node == value


# Files are data -------------------------------------------------------------------------------


def refusal(path) -> str:
    """What is said of a file, within a second and without a change to the configuration."""
    cfg = get_cfg_default()
    start = time.process_time()
    with pytest.raises(UsageError) as error:
        cfg.merge_from_file(str(path))
    assert time.process_time() - start < 1
    assert cfg == get_cfg_default()
    return str(error.value)


@pytest.mark.parametrize("name", ["code.py", "code.txt", "code", "code.yaml.py"])
def test_no_file_can_run_code(tmp_path, name):
    witness = tmp_path / "ran"
    code = tmp_path / name
    code.write_text(f"open({str(witness)!r}, 'w')\ncfg = {{}}\n")
    (tmp_path / "base.yaml").write_text(f"_BASE_: {name}\n")
    (tmp_path / "tag.yaml").write_text(
        f"OPTIM: !!python/object/apply:os.system ['touch {witness}']\n"
    )
    assert "not a YAML file" in refusal(code)
    assert name in refusal(tmp_path / "base.yaml")
    assert "tag.yaml" in refusal(tmp_path / "tag.yaml")
    assert not witness.exists()


def bomb() -> str:
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12)]
    return "l0: &l0 [x, x]\n" + "".join(levels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "aliases"),
        ("a: &a [*a]\n", "bad.yaml"),
        ("a: " + "[" * 5000 + "]" * 5000, "nesting"),
        ("{" * 5000, "bad.yaml"),
        ("OPTIM:\n  LR: 0.1\nOPTIM:\n  LR: 0.2\n", "'OPTIM' is there twice"),
        ("OPTIM:\n  LR: 0.1\n  LR: 0.2\n", "line 3"),
        ("OPTIM.LR: 0.1\n", "'OPTIM.LR' is not the name"),
        ("1: 2\n", "1 is not the name"),
        ("OPTIM:\n  LR: .nan\n", "OPTIM.LR nan"),
        ("OPTIM:\n  MAX_EPOCH: " + "9" * 5000, "bad.yaml"),
        ("OPTIM:\n  LR: 2020-01-01\n", "OPTIM.LR"),
        ("OPTIM:\n  LR:\n", "OPTIM.LR None"),
        ("OPTIM: 3\n", "a group of settings"),
        ("_BASE_: [a.yaml]\n", "_BASE_ takes the name"),
        ("_BASE_: bad.yaml\n", "circle"),
        ("_BASE_: nowhere.yaml\n", "nowhere.yaml"),
        ("a: b\0c\n", "bad.yaml"),
        ("# " + "x" * (1 << 17), "bytes"),
        ("", "holds no settings"),
    ],
)
def test_bad_files_are_refused_at_once(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert said in refusal(path)


def test_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes("# Müll\n".encode("latin-1"))
    for name in ("pipe", "folder", "latin"):
        assert f"{name}.yaml" in refusal(tmp_path / f"{name}.yaml")


def test_a_file_says_what_differs_from_its_base(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "root.yaml").write_text("OPTIM:\n  LR: 0.1\n  MAX_EPOCH: 3\n")
    (tmp_path / "middle.yml").write_text("_BASE_: root.yaml\nOPTIM:\n  MAX_EPOCH: 4\n")
    (tmp_path / "sub/top.yaml").write_text("_BASE_: ../middle.yml\nSEED: 5\n")
    cfg = get_cfg_default()
    cfg.merge_from_file(tmp_path / "sub/top.yaml")
    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.SEED) == (0.1, 4, 5)
    (tmp_path / "root.yaml").write_text("OPTIM:\n  LR: -1\n")
    assert "root.yaml: OPTIM.LR -1" in refusal(tmp_path / "sub/top.yaml")  # where it stands


@pytest.fixture
def tables():
    cfg = get_cfg_default()
    number = Setting(None, "weight", kind=float, optional=True, below="W_BY_DATASET")
    table = Setting({"EuroSAT": 0.01, "default": 1.0}, "weights", table=True, ge=0)
    declare(cfg, "TRAINER.TABLES", {"W": number, "W_BY_DATASET": table})
    return cfg


def test_tables_of_files(tables, tmp_path):
    path = tmp_path / "tables.yaml"

    def merged(text):
        cfg = tables.clone()
        path.write_text(f"TRAINER:\n  TABLES:\n    {text}\n")
        cfg.merge_from_file(path)
        return cfg.TRAINER.TABLES.W, dict(cfg.TRAINER.TABLES.W_BY_DATASET)

    # Alone, the number is for data sets that are not in the table, as in upstream's files.
    assert merged("W: 0.5") == (None, {"EuroSAT": 0.01, "default": 0.5})
    # A table stands in place of the default one; beside it the number goes first.
    assert merged("W_BY_DATASET: {Food101: 2}") == (None, {"Food101": 2})
    assert merged("W_BY_DATASET: {}") == (None, {})
    assert merged("W: 0.5\n    W_BY_DATASET: {}") == (0.5, {})
    with pytest.raises(UsageError, match="W_BY_DATASET {'Food101': -2}: takes a table"):
        merged("W_BY_DATASET: {Food101: -2}")
    # On the command line each says what it says.
    tables.merge_from_list(["TRAINER.TABLES.W", "3", "TRAINER.TABLES.W_BY_DATASET.Food101", "0.1"])
    assert tables.TRAINER.TABLES.W == 3
    assert dict(tables.TRAINER.TABLES.W_BY_DATASET) == {
        "EuroSAT": 0.01,
        "default": 1.0,
        "Food101": 0.1,
    }


# Values that other code bases write -----------------------------------------------------------


def test_dassls_settings_without_a_use_are_taken_with_a_line(caplog):
    options = ["DATASET.NUM_LABELED", "5", "DATASET.VAL_PERCENT", "0.2", "LOSS.NAME", "x"]
    options += [
        "MODEL.HEAD.NAME",
        "mlp",
        "MODEL.HEAD.HIDDEN_LAYERS",
        "[512]",
        "MODEL.HEAD.BN",
        "True",
    ]
    with caplog.at_level("INFO"):
        get_cfg_default().merge_from_list(options)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 5  # BN is the default
    assert all("has no effect here" in line for line in said)


def test_text_is_taken_as_it_is():
    cfg = get_cfg_default()
    for text, taken in (("2024", "2024"), ("{}", "{}"), ("[a] b", "[a] b"), ("'a b'", "a b")):
        cfg.merge_from_list(["DATASET.ROOT", text])
        assert taken == cfg.DATASET.ROOT


def test_limits_together():
    cfg = get_cfg_default()
    check_config(cfg)
    cfg.OPTIM.WARMUP_EPOCH = 11
    with pytest.raises(UsageError, match=r"WARMUP_EPOCH 11: .*MAX_EPOCH 10 epochs"):
        check_config(cfg)
    cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.SGD_NESTEROV, cfg.OPTIM.MOMENTUM = 1, True, 0.0
    with pytest.raises(UsageError, match="SGD_NESTEROV"):
        check_config(cfg)


def test_the_choices_are_those_of_the_code():
    assert set(defaults.OPTIMIZERS) == set(AVAI_OPTIMS)
    assert set(defaults.SCHEDULES) == set(AVAI_SCHEDS)
    assert set(defaults.WARMUPS) == set(AVAI_WARMUPS)
    assert set(defaults.INTERPOLATIONS) == set(INTERPOLATION_MODES)
    assert set(defaults.SAMPLERS) == set(SAMPLERS)


def test_settings_that_no_trainer_declared():
    cfg = pickle.loads(pickle.dumps(get_cfg_default().clone()))
    assert not hasattr(cfg.TRAINER, "PLOT")
    with pytest.raises(UsageError, match=r"TRAINER.PLOT: nobody declared .* extend_cfg"):
        cfg.TRAINER.PLOT  # noqa: B018
    cfg.TRAINER.PLOT = CfgNode({"N": 4})
    assert cfg.TRAINER.PLOT.N == 4
