"""The configuration: upstream's defaults, merging, and what wrong input says."""

import pickle

import pytest
from dassl_toy import few
from hypothesis import given
from hypothesis import strategies as st
from yacs.config import CfgNode

from dassl.config import get_cfg_default
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
    cfg.TRAINER.TABLE = CfgNode(new_allowed=True)
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
        (["OPTIM.LR", "fast"], ["OPTIM.LR", "float", "'fast'"]),
        (["OPTIM", "3"], ["OPTIM", "group of settings"]),
        (["SEED", "1.5"], ["SEED", "int", "1.5"]),
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
            "OPTIM.STEPSIZE": st.lists(st.integers(-1, 100), min_size=1).map(tuple),
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
