"""Exports that run without this project: ONNX, a program of PyTorch's, stock open_clip."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps
from runs_of_tests import run_folder

from anprompt import Predictor
from anprompt.commands import export
from anprompt.runs import deploy
from anprompt.runs.config import default_cfg
from anprompt.runs.export import write_export
from anprompt.runs.trained import trained_from
from clip.clip import PIXEL_MEAN, PIXEL_STD
from clip.model import build_model
from common import cli
from common.errors import UsageError
from common.images import READINGS, read_image

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs/DEPLOYMENT.md"
_, ONNX, PROGRAM, STOCK = re.findall(
    r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S
)
CLASSNAMES = ["river", "annual crop land", "Sea_or_Lake"]
TINY = {
    "embed_dim": 64, "quick_gelu": True,
    "vision_cfg": {
        "layers": 12, "width": 128, "head_width": 64, "patch_size": 16, "image_size": 64,
    },
    "text_cfg": {"width": 128, "heads": 2, "layers": 12},
}  # fmt: skip


@pytest.fixture
def photo(tmp_path, monkeypatch) -> Path:
    """A picture that is not square, in the current folder."""
    monkeypatch.chdir(tmp_path)
    grain = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(grain).resize((149, 97)).save("photo.jpg", quality=95)
    return tmp_path / "photo.jpg"


def pictures(folder: Path) -> list[Path]:
    """Files that upstream's reading and a viewer's show differently, and a plain one."""
    grain = np.random.default_rng(0).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    plain, turned = Image.fromarray(grain[..., :3]), Image.Exif()
    turned[0x0112] = 6
    plain.save(folder / "plain.png")
    plain.save(folder / "turned.jpg", exif=turned)
    plain.quantize(8).save(folder / "palette.gif", transparency=0)
    Image.fromarray(grain).save(folder / "clear.webp", lossless=True)
    deep = grain[..., 0].astype(np.uint16) * 251
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(deep).save(folder / "deep.tif")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("reading", READINGS)
def test_the_pages_lines_read_images_as_the_run_did(reading, tmp_path):
    lines = re.search(r'^image = Image.open.*?^image = image.convert\("RGB"\)$', ONNX, re.M | re.S)
    assert lines
    files = pictures(tmp_path)
    for file in files:
        found = {"Image": Image, "ImageOps": ImageOps, "np": np, "how": {"reading": reading}}
        exec(lines[0].replace("photo.jpg", str(file)), found)
        expected = np.asarray(read_image(file, reading))
        assert np.array_equal(np.asarray(found["image"]), expected), file.name
    differs = [
        f for f in files if np.any(read_image(f, "as_seen").tobytes() != read_image(f).tobytes())
    ]
    assert len(differs) == len(files) - 1


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["CoOp", "MaPLe", "ANPrompt"])
def test_onnx_answers_as_the_model(trained_output, trainer, photo):
    pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    pytest.importorskip("onnxscript", reason="requirements-onnx.txt is not installed")
    run = run_folder(trained_output, trainer)
    assert export.main([str(run), "--format", "onnx", "--output", "my_model.onnx"]) == 0
    found: dict = {}
    exec(ONNX, found)
    predictor = Predictor.load(run)
    assert found["names"] == predictor.classnames
    expected = predictor.probabilities([photo])
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-4)
    batch = torch.cat([predictor.prepare(photo)[None], torch.randn(4, 3, 64, 64)])
    answers = found["session"].run(None, {"image": batch.numpy()})[0]
    np.testing.assert_allclose(answers, predictor.probabilities(batch), atol=1e-4)
    about = found["about"]
    assert found["how"]["reading"] == "upstream"
    assert about["trainer"] == trainer and about["rule"] == predictor.rule
    assert "text" not in about["image_tower"]


@pytest.mark.slow
def test_a_program_answers_as_the_model(trained_output, photo):
    run = run_folder(trained_output, "ANPrompt")
    assert export.main([str(run), "--format", "torch", "--output", "my_model.pt2"]) == 0
    predictor = Predictor.load(run)
    found = {"images": torch.stack([predictor.prepare(photo), torch.randn(3, 64, 64)])}
    exec(PROGRAM, found)
    expected = predictor.probabilities(found["images"])
    torch.testing.assert_close(found["probabilities"].detach(), expected, atol=1e-4, rtol=0)
    assert found["names"] == predictor.classnames
    names = [name for name, _ in torch.export.load("my_model.pt2").named_parameters()]
    assert not any("token_embedding" in name or "clip.transformer" in name for name in names)


@pytest.mark.parametrize("trainer", ["ZeroshotCLIP", "CoOp"])
def test_stock_open_clip_answers_as_the_model(trained_output, trainer, photo, tiny_clip_path):
    predictor = Predictor.load(run_folder(trained_output, trainer))
    predictor.export("my_model")
    found = in_stock_open_clip(tiny_clip_path)
    assert found["about"]["image_tower"] == "backbone"
    expected = predictor.probabilities([photo])
    torch.testing.assert_close(found["probabilities"].detach(), expected, atol=1e-4, rtol=0)


def in_stock_open_clip(weights: Path) -> dict:
    """Run the page's lines on open_clip's own model with the tests' small weights."""
    Path("tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(Path("tiny-clip.json"))
    name = '"ViT-B-16-quickgelu", pretrained="openai"'
    assert name in STOCK
    found: dict = {}
    exec(STOCK.replace(name, f'"tiny-clip", pretrained={str(weights)!r}'), found)
    return found


@pytest.fixture
def untrained(tiny_clip_state_dict, tiny_clip_path):
    """Make a method's model on the tests' small CLIP."""

    def make(trainer, transforms=("normalize",)):
        cfg = default_cfg()
        cfg.TRAINER.NAME, cfg.DATASET.NAME = trainer, "EuroSAT"
        cfg.MODEL.BACKBONE.NAME = str(tiny_clip_path)
        cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (64, 64), "bicubic"
        cfg.INPUT.TRANSFORMS = transforms
        cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(PIXEL_MEAN), list(PIXEL_STD)
        clip_model = build_model(tiny_clip_state_dict).requires_grad_(False).eval()
        return trained_from(cfg, CLASSNAMES, clip_model, {})

    return make


@pytest.mark.parametrize("normalised", [True, False])
def test_an_export_says_whether_images_are_normalised(photo, untrained, tiny_clip_path, normalised):
    transforms = ("random_flip", "normalize") if normalised else ("random_flip",)
    trained = untrained("CoOp", transforms)
    write_export(trained, CLASSNAMES, "my_model")
    predictor = Predictor(trained, CLASSNAMES, CLASSNAMES, "class")
    pixels = predictor.prepare(photo)
    assert (pixels.min() >= 0) != normalised
    found = in_stock_open_clip(tiny_clip_path)
    mean, std = (torch.tensor(found["how"][key]).view(3, 1, 1) for key in ("mean", "std"))
    unscaled = pixels * std + mean
    assert 0 <= unscaled.min() < 0.2 and 0.8 < unscaled.max() <= 1 + 1e-6
    torch.testing.assert_close(found["preprocess"](Image.open(photo)), pixels)
    expected = predictor.probabilities([photo])
    torch.testing.assert_close(found["probabilities"].detach(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("trainer", ["CoOp", "DePTCoOp", "DePTMaPLe"])
def test_a_model_that_is_exported_has_no_text_tower(untrained, trainer):
    trained = untrained(trainer)
    names = [name for name, _ in deploy.Deployed(trained).named_parameters()]
    assert any("visual" in name for name in names)
    assert not any("token_embedding" in name or "clip.transformer" in name for name in names)
    assert trained.model.clip.transformer is not None  # the model itself is as before


def test_low_rank_changes_are_in_the_weights(photo, untrained, tiny_clip_path):
    trained = untrained("CLIPLoRA")
    clip_model = trained.model.clip
    torch.manual_seed(0)
    for parameter in trained.model.prompt_learner.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    before = {name: x.clone() for name, x in clip_model.state_dict().items()}
    predictor = Predictor(trained, CLASSNAMES, CLASSNAMES, "class")
    image = predictor.prepare(photo)[None]
    expected = predictor.probabilities(image)
    write_export(trained, CLASSNAMES, "my_model")
    found = in_stock_open_clip(tiny_clip_path)
    assert found["about"]["image_tower"] == "merged"
    torch.testing.assert_close(found["probabilities"].detach(), expected, atol=1e-4, rtol=0)
    plain = found["open_clip"].create_model("tiny-clip", pretrained=str(tiny_clip_path))
    features = plain.eval().encode_image(image, normalize=True)
    assert (features - found["features"]).abs().max() > 1e-3
    assert all(torch.equal(x, before[name]) for name, x in clip_model.state_dict().items())
    assert Predictor.load("my_model").probabilities(image).equal(expected)


def test_a_file_that_answers_otherwise_is_not_kept(trained_output):
    predictor = Predictor.load(run_folder(trained_output, "CoOp"), portable=True)
    deployed, example = deploy._ready(predictor.trained)
    with pytest.raises(UsageError, match=r"differ from the model's by 1\.\de-03"):
        deploy._compare(deployed, lambda image: deployed(image).numpy() + 1e-3, example)
    with pytest.raises(UsageError, match="differ from the model's by nan"):
        deploy._compare(deployed, lambda image: np.full((len(image), 5), np.nan), example)


def test_what_cannot_be_written_is_one_line(trained_output, tmp_path, monkeypatch, capsys):
    run = str(run_folder(trained_output, "CoOp"))

    def call(*arguments):
        capsys.readouterr()
        try:
            status = cli.run(export.main, "anprompt export", [str(a) for a in arguments])
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    status, said = call(run, "--format", "onnx")
    assert status == 2 and "needs the package onnx: pip install -r requirements-onnx.txt" in said
    assert len(said.strip().splitlines()) == 1
    assert call(tmp_path)[0] == 2 and call(run, "--format", "tflite")[0] == 2
    (tmp_path / "taken").write_text("")
    status, said = call(run, "--output", "taken")
    assert status == 2 and len(said.strip().splitlines()) == 1
    status, said = call(run, "--format", "upstream", "--output", "theirs")
    assert status == 0 and list(Path("theirs").rglob("model.pth.tar-*"))
    assert not list(tmp_path.glob("model*"))


def test_what_an_exporter_says_of_its_workings_is_one_line(trained_output, photo, monkeypatch):
    """torch's exporters quote the tracebacks of what they tried in their messages."""

    def fails(*arguments, **settings):
        raise RuntimeError("Cannot say it.\n\nTraceback (most recent call last):\n  File x\n")

    monkeypatch.setattr(torch.export, "export", fails)
    run = run_folder(trained_output, "CoOp")
    with pytest.raises(UsageError) as refused:
        export.main([str(run), "--format", "torch", "--output", "my_model.pt2"])
    assert "RuntimeError: Cannot say it.)" in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert not Path("my_model.pt2").exists()
