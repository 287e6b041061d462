"""Names of backbones: which entry of open_clip's registry they mean, bad ones a one-line error."""

import open_clip
import pytest

from clip.weights import hub
from clip.weights.loading import load_state_dict
from clip.weights.names import UnknownBackboneError
from common.errors import UsageError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ViT-B/61", "ViT-B/16"),
        ("vit-b/16", "ViT-B/16"),
        ("RN5O", "RN50"),
        ("smal", "small"),
        ("ViT-B-32", "ViT-B/32"),
        ("VitB32::openai", "ViT-B-32::openai"),
    ],
)
def test_unknown_name_says_the_nearest(name, nearest):
    with pytest.raises(UnknownBackboneError) as error:
        load_state_dict(name)
    message = str(error.value)
    assert message.startswith(f"backbone {name!r} is not known; nearest known: ")
    assert nearest in message.split(". ")[0].split(": ")[1].split(", ")


def test_path_to_nothing():
    for name in ("/nowhere/clip.pt", "nowhere.safetensors", "ViT-B-32::nowhere.pt"):
        with pytest.raises(FileNotFoundError, match="nowhere.*: no such file"):
            load_state_dict(name)


def test_unknown_tag_says_the_known_ones():
    with pytest.raises(ValueError, match="ViT-B-32 has no pretrained tag 'laion'; it has: openai,"):
        load_state_dict("ViT-B-32::laion")


@pytest.mark.parametrize(
    ("name", "obstacle"),
    [
        ("ViT-B-16-SigLIP::webli", "in its text tower words attend to later words"),
        ("MobileCLIP-S1::datacompdr", "in its text tower words attend to later words"),
        ("ViT-L-14-CLIPA::datacomp1b", "in its text tower words attend to later words"),
        ("ViT-H-14-worldwide::metaclip2_worldwide", "its texts are tokenised by 'facebook/xlm-v-b"),
        ("coca_ViT-B-32::laion2b_s13b_b90k", "its text tower adds a class token"),
        ("roberta-ViT-B-32::laion2b_s12b_b32k", "its text tower is 'roberta-base'"),
    ],
)
def test_other_text_towers_are_refused_before_any_download(name, obstacle):
    with pytest.raises(UsageError, match=f"{name}: {obstacle}.*; learned prompts need CLIP's own"):
        load_state_dict(name)


def test_names_mean_registry_entries(monkeypatch):
    asked = []

    def fetch(architecture, tag, folder):
        asked.append((architecture, tag))
        raise FileNotFoundError

    monkeypatch.setattr(hub, "fetch", fetch)
    names = {
        "ViT-B/16": ("ViT-B-16", "openai"),
        "ViT-L/14@336px": ("ViT-L-14-336", "openai"),
        "ViT-B-16:openai": ("ViT-B-16", "openai"),
        "ViT-B-32::laion2b_s34b_b79k": ("ViT-B-32", "laion2b_s34b_b79k"),
        "ViT-B/32::laion2b_s34b_b79k": ("ViT-B-32", "laion2b_s34b_b79k"),
    }
    for name in names:
        with pytest.raises(FileNotFoundError):
            load_state_dict(name)
    assert asked == list(names.values())


def test_registry_knows_all_openai_names():
    for architecture in hub.OPENAI_NAMES.values():
        entry = open_clip.pretrained.get_pretrained_cfg(architecture, "openai")
        assert len(hub.stated_sha256(entry["url"])) == 64
        assert hub.facts(architecture, "openai").settings == {}
