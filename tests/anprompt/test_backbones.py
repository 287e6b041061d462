"""Other backbones: what is listed, what a run takes from them, text-only methods on a ConvNeXt."""

import json

import open_clip
import pytest
import torch
import yaml
from open_clip.model import CustomTextCLIP
from runs_of_tests import ROOT
from safetensors.torch import save_file

import train
from anprompt.__main__ import main as anprompt
from anprompt.commands.backbones import known_rows, methods, report
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg
from anprompt.runs.predictor import Predictor
from clip.weights import hub
from common.errors import UsageError

TEXT_ONLY = [
    "AdvCoOp",
    "CLAP",
    "CLIPAdapter",
    "CoCoOp",
    "CoOp",
    "DePTCoOp",
    "DePTKgCoOp",
    "KgCoOp",
    "LinearProbe",
    "ProGrad",
    "TCP",
    "TaskRes",
    "TipAdapter",
    "TipAdapterF",
    "ZeroshotCLIP",
    "ZeroshotCLIP2",
]
SIZE, MEAN, STD = 64, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


# --- the list ---


def test_every_registered_model_is_listed_once():
    rows = known_rows()
    listed = [(row.name, tag.split(" (=")[0]) for row in rows for tag in row.tags]
    assert sorted(listed) == sorted(open_clip.list_pretrained())
    assert rows[0].name == "small" and rows[0].has_vit and rows[0].pixels.resolution == 48
    vits = {row.name for row in rows if row.has_vit}
    others = {row.name for row in rows if not row.has_vit and not row.reason}
    refused = {row.name for row in rows if row.reason}
    assert {"ViT-B-16", "ViT-bigG-14", "ViT-L-14-336"} <= vits
    assert {"RN50", "EVA02-B-16", "convnext_base", "MobileCLIP-B", "ViTamin-S"} <= others
    assert "PE-Core-B-16" in others and not vits & others
    assert {"ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32", "MobileCLIP-S1"} <= refused
    for row in rows:  # what the list says is what loading does, before any download
        for tag in row.tags:
            if row.reason:
                with pytest.raises(UsageError, match=row.name):
                    hub.facts(row.name, tag.split(" (=")[0])


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("ViT-B/16", ["ViT-B-16"]),
        ("vit-b-16", None),
        ("EVA02-L*", ["EVA02-L-14", "EVA02-L-14-336"]),
        ("ViT-L-14::laion2b*", ["ViT-L-14"]),
        ("small", ["small"]),
        ("nothing of this name", []),
    ],
)
def test_patterns(pattern, names):
    rows = known_rows(pattern)
    if names is not None:
        assert list(dict.fromkeys(row.name for row in rows)) == names
    else:
        assert all(pattern in row.name.casefold() for row in rows) and len(rows) > 5


def test_methods_that_put_nothing_into_the_image_tower():
    everything, text_only = methods()
    assert text_only == TEXT_ONLY
    assert {"ANPrompt", "MaPLe", "VPT", *TEXT_ONLY} <= set(everything)


def test_command(capsys):
    assert anprompt(["backbones", "mobileclip-*"]) == 0
    out = capsys.readouterr().out
    assert f"{', '.join(TEXT_ONLY)}: they put nothing into" in " ".join(out.split())
    assert "MobileCLIP-B  224 px  datacompdr" in out and "(pixel mean (0.0, 0.0, 0.0)" in out
    assert "MobileCLIP-S1  256 px  datacompdr  in its text tower words attend to later" in out
    assert "4 models: 0 with all methods, 2 with those that prompt the text alone, 2 with" in out
    assert max(map(len, out.splitlines())) <= 110
    assert anprompt(["backbones", "no such name"]) == 2
    assert "no backbone is called 'no such name'" in capsys.readouterr().err
    assert any("with all methods" in line for line in report(known_rows("ViT-B/32")))


# --- what a run takes from its backbone ---


@pytest.fixture(scope="module")
def convnext(tmp_path_factory):
    """A ConvNeXt CLIP of random weights for images of 64 pixels, as open_clip's hub folders are."""
    folder = tmp_path_factory.mktemp("convnext")
    config = {
        "embed_dim": 64,
        "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "image_size": SIZE},
        "text_cfg": {"width": 64, "heads": 1, "layers": 2},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(CustomTextCLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    pixels = {"mean": MEAN, "std": STD, "interpolation": "bilinear"}
    written = {"model_cfg": config, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    return folder


def cfg_of(backbone, *options, trainer="CoOp", config="CoOp/vit_b16_ctxv1"):
    arguments = ["--trainer", trainer, "--backbone", str(backbone)]
    arguments += ["--config-file", str(ROOT / "configs" / "trainers" / f"{config}.yaml")]
    return build_cfg(make_parser().parse_args([*arguments, *options]))


def test_pixels_are_the_backbones(convnext):
    images = cfg_of(convnext).INPUT
    assert tuple(images.SIZE) == (SIZE, SIZE) and images.INTERPOLATION == "bilinear"
    assert list(images.PIXEL_MEAN) == MEAN and list(images.PIXEL_STD) == STD
    laion = cfg_of("ViT-L-14::laion2b_s32b_b82k").INPUT
    assert list(laion.PIXEL_MEAN) == list(laion.PIXEL_STD) == [0.5, 0.5, 0.5]
    assert laion.INTERPOLATION == "bicubic"
    clips = cfg_of("ViT-B/16").INPUT
    assert list(clips.PIXEL_MEAN) == [0.48145466, 0.4578275, 0.40821073]
    assert clips.INTERPOLATION == "bicubic" and tuple(clips.SIZE) == (224, 224)


def test_what_the_user_states_stays(convnext, tmp_path):
    options = ["INPUT.PIXEL_MEAN", "[0.1, 0.2, 0.3]", "INPUT.SIZE", "(32, 32)"]
    images = cfg_of(convnext, *options).INPUT
    assert list(images.PIXEL_MEAN) == [0.1, 0.2, 0.3] and tuple(images.SIZE) == (32, 32)
    assert list(images.PIXEL_STD) == STD
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"INPUT": {"PIXEL_STD": [0.9, 0.9, 0.9]}}))
    arguments = ["--trainer", "CoOp", "--backbone", str(convnext), "--config-file", str(own)]
    images = build_cfg(make_parser().parse_args(arguments)).INPUT
    assert list(images.PIXEL_STD) == [0.9, 0.9, 0.9] and list(images.PIXEL_MEAN) == MEAN


# --- text-only methods on it ---


def arguments(trainer, config, convnext, fake_eurosat, output):
    return [
        *("--root", str(fake_eurosat), "--trainer", trainer, "--backbone", str(convnext)),
        *("--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml")),
        *("--config-file", str(ROOT / "configs/trainers" / f"{config}.yaml")),
        *("--output-dir", str(output), "--seed", "1", "DATASET.NUM_SHOTS", "1"),
        *("OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", "TEST.NO_TEST", "False"),
    ]


@pytest.mark.parametrize(
    ("trainer", "config"),
    [("CoOp", "CoOp/vit_b16_ctxv1"), ("CoCoOp", "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1")],
)
def test_text_only_methods_train_and_predict(trainer, config, convnext, fake_eurosat, tmp_path):
    output = tmp_path / "run"
    assert train.main(arguments(trainer, config, convnext, fake_eurosat, output)) == 0
    results = json.loads((output / "results.json").read_text())
    assert 0 <= results["accuracy"] <= 100 and results["trainer"] == trainer
    recorded = yaml.safe_load((output / "config.yaml").read_text())
    assert recorded["INPUT"]["PIXEL_MEAN"] == MEAN
    predictor = Predictor.load(output)
    image = next((fake_eurosat / "eurosat" / "2750" / "River").iterdir())
    assert len(predictor.predict(image)) > 1


def test_methods_with_prompts_in_the_image_tower_refuse(convnext, fake_eurosat, tmp_path, capsys):
    config = "MaPLe/vit_b16_c2_ep5_batch4_2ctx"
    assert train.main(arguments("MaPLe", config, convnext, fake_eurosat, tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "MaPLe changes the image tower and needs a ViT" in line
    assert "this backbone has a ConvNeXt" in line
