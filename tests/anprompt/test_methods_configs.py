"""Methods as folders of configurations: their names, and which configuration a run takes."""

import pytest

from anprompt.protocols.methods import find_method, method_of
from anprompt.protocols.plan import PROTOCOLS


@pytest.mark.parametrize("name", ["mmrlpp", "MMRLpp", "MMRLPP", "mmrl_pp"])
def test_a_method_is_found_by_both_its_names(name):
    assert find_method(name).trainer == "MMRLpp"
    assert find_method("ZeroshotCLIP") == find_method("zsclip") == method_of("ZeroshotCLIP")
    assert not find_method("zsclip2").learns


@pytest.fixture
def own_method(tmp_path, monkeypatch):
    """A repository whose configs/trainers has what the test writes there."""
    from common import paths

    monkeypatch.setattr(paths, "ROOT", tmp_path / "repository")
    folder = tmp_path / "repository/configs/trainers/MyMethod"
    folder.mkdir(parents=True)
    return folder


def test_one_yaml_file_is_a_methods_configuration_everywhere(own_method):
    (own_method / "vit_b16.yaml").write_text("OPTIM: {MAX_EPOCH: 1}\n")
    method = find_method("mymethod")
    assert (method.trainer, method.learns) == ("MyMethod", True)
    assert {method.config(name, "dtd", 4) for name in PROTOCOLS} == {"vit_b16"}
    assert method.config_file("vit_b16") == own_method / "vit_b16.yaml"


@pytest.mark.parametrize(
    "text, said",
    [
        ("base2new: a\nfewshoot: a\n", "fewshoot"),
        ("- a\n", "not a mapping"),
        ("learns: maybe\n", "expected true or false"),
        ("unlabelled: 1\n", "unlabelled is 1; expected true or false"),
        ("base2new: {config: a}\n", "neither"),
        ("base2new: [{config: a, shot: 1}]\n", "neither"),
        ("base2new: [{dataset: dtd}]\n", "neither"),
    ],
)
def test_a_misspelt_protocols_file_is_refused(text, said, own_method):
    (own_method / "protocols.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        find_method("mymethod")


def test_several_yaml_files_need_a_word_on_which(own_method):
    for name in ("a", "b"):
        (own_method / f"{name}.yaml").touch()
    with pytest.raises(ValueError, match="no configuration for crossdata; name one of"):
        find_method("mymethod").config("crossdata", "dtd", 16)


def test_default_yaml_is_taken_where_there_are_several(own_method):
    for name in ("a", "default"):
        (own_method / f"{name}.yaml").touch()
    assert find_method("mymethod").config("crossdata", "dtd", 16) == "default"


@pytest.mark.parametrize(
    ("method", "dataset", "shots", "config"),
    [
        ("mma", "imagenet", 16, "vit_b16_ep5_imnet"),
        ("mma", "caltech101", 16, "vit_b16_ep5"),
        ("prograd", "imagenet", 4, "vit_b16_ep50"),
        ("tipadapterf", "eurosat", 16, "vit_b16_ep100"),
        ("coprompt", "shapes", 16, "coprompt"),
    ],
)
@pytest.mark.parametrize("protocol", ["base2new", "crossdata", "fewshot"])
def test_what_the_authors_set_for_a_data_set_is_taken(protocol, method, dataset, shots, config):
    assert find_method(method).config(protocol, dataset, shots) == config
