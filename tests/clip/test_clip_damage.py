"""Damaged and foreign backbone files: one line, never another model and never a traceback.

The files are made and damaged from fixed seeds. ``python tests/clip/test_clip_damage.py COUNT``
tries more of them and counts what happened.
"""

import collections
import io
import json
import random
import struct
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import clip
from clip.weights import names
from common.errors import UsageError

SIZE = dict(vw=64, vl=2, patch=16, image=32, tw=64, tl=2, embed=32)


def small_weights() -> dict[str, torch.Tensor]:
    from benchmarks.random_clip import random_clip_state_dict

    weights = random_clip_state_dict(SIZE)
    ids = clip.tokenize(["a photo of a cat", "a dog"]).unique()
    weights["token_embedding.weight"] = weights["token_embedding.weight"][ids].contiguous()
    return weights | {"token_embedding.ids": ids.int()}


def to_transformers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hugging Face transformers' names, written from its documentation of CLIPModel."""
    found = {}
    for key, value in weights.items():
        tower = "vision_model" if key.startswith("visual.") else "text_model"
        name = key.removeprefix("visual.")
        if name.startswith("transformer.resblocks."):
            layer, part = name.removeprefix("transformer.resblocks.").split(".", 1)
            base = f"{tower}.encoder.layers.{layer}."
            if part.startswith("attn.in_proj_"):
                for q, rows in zip("qkv", value.chunk(3), strict=True):
                    kind = part.removeprefix("attn.in_proj_")
                    found[f"{base}self_attn.{q}_proj.{kind}"] = rows.contiguous()
                continue
            for ours, theirs in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                part = part.replace(ours, theirs)
            found[base + part] = value
            continue
        theirs = {
            "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
            "token_embedding.ids": "token_embedding.ids",
            "positional_embedding": f"{tower}.embeddings.position_embedding.weight",
            "ln_final.weight": "text_model.final_layer_norm.weight",
            "ln_final.bias": "text_model.final_layer_norm.bias",
            "text_projection": "text_projection.weight",
            "class_embedding": "vision_model.embeddings.class_embedding",
            "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
            "ln_pre.weight": "vision_model.pre_layrnorm.weight",
            "ln_pre.bias": "vision_model.pre_layrnorm.bias",
            "ln_post.weight": "vision_model.post_layernorm.weight",
            "ln_post.bias": "vision_model.post_layernorm.bias",
            "proj": "visual_projection.weight",
            "logit_scale": "logit_scale",
        }[name]
        found[theirs] = value.t().contiguous() if theirs.endswith("projection.weight") else value
    return found


def odd_values(rng: random.Random) -> list:
    """What may stand where a tensor is expected, and tensors that no CLIP has."""
    return [
        3,
        None,
        "text",
        [1, 2],
        {"a": torch.ones(1)},
        np.float64(0.5),
        Namespace(lr=0.1),
        torch.tensor(float("nan")),
        torch.zeros(0),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(2, 2, dtype=torch.bool),
        torch.zeros(2, 2, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        torch.ones(1).expand(1000, 1000),
        torch.ones(rng.randrange(1, 70), rng.randrange(1, 70)),
        torch.ones([1] * rng.randrange(0, 6)),
    ]


def change_content(weights: dict, rng: random.Random) -> dict:
    """Keys gone, renamed, added; shapes, types and values that do not belong there."""
    weights = dict(weights)
    keys = list(weights)
    key = rng.choice(keys + [k for k in keys if k in ("logit_scale", "text_projection")] * 20)
    value = weights[key]
    kind = rng.randrange(12)
    if kind == 0:
        del weights[key]
    elif kind == 1:
        weights[rng.choice([f"{key}x", 7, "", ("a", 1), key[1:], f"module.{key}"])] = value
    elif kind == 2:
        weights[key] = rng.choice(odd_values(rng))
    elif kind == 3 and value.numel():
        changed = value.clone().flatten().float()
        bad = [float("nan"), float("inf"), -float("inf"), 1e30, -1e12]
        changed[rng.randrange(changed.numel())] = rng.choice(bad)
        weights[key] = changed.reshape(value.shape)
    elif kind == 4:
        weights[key] = value.reshape(-1)
    elif kind == 5:
        weights[key] = value[None]
    elif kind == 6 and value.dim():
        weights[key] = value[: rng.randrange(len(value))]
    elif kind == 7 and value.dim() == 2:
        weights[key] = value.t().contiguous()
    elif kind == 8:
        weights[key] = value.to(rng.choice([torch.int32, torch.float64, torch.uint8]))
    elif kind == 9:
        name = rng.choice(["quick_gelu", "vision_heads", "text_heads", "image_tower", "logit_bias"])
        weights[name] = rng.choice([torch.tensor(0), torch.tensor(-3), torch.ones(3), value])
    elif kind == 10:
        weights = {k: v for k, v in weights.items() if rng.random() < 0.5}
    else:
        weights[key] = torch.zeros_like(value) if rng.random() < 0.5 else value * 1e8
    return weights


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(6)
    at = rng.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:  # the structure stands at the beginning or the end
        at = rng.choice([rng.randrange(min(3000, len(content))), len(content) - 1 - at % 3000])
    if kind in (1, 2):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 4, 100])):
            changed[max(0, min(len(content) - 1, at))] ^= 1 << rng.randrange(8)
            at += rng.randrange(-8, 9)
        return bytes(changed)
    if kind == 3:
        return content[:at] + bytes(rng.randrange(256) for _ in range(64)) + content[at:]
    if kind == 4:
        length = rng.choice([0, 1, 7, len(content), 2**31, 2**63, 2**64 - 1])
        return struct.pack("<Q", length) + content[8:]
    return content[:at] + content[at + rng.randrange(1, 200) :]


def change_header(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    key = rng.choice([k for k in header if k != "__metadata__"])
    bad = [None, [], {}, "F32", -1, 10**30, [1] * 100, [2**40, 2**40], [-1], "X", [0, 2**62]]
    if rng.random() < 0.2:
        header[key] = rng.choice(bad)
    else:
        header[key][rng.choice(["dtype", "shape", "data_offsets"])] = rng.choice(bad)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def change_member(path: Path, rng: random.Random) -> None:
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    name = rng.choice([*members, next(n for n in members if n.endswith("data.pkl"))])
    kind = rng.randrange(4)
    if kind == 0:
        del members[name]
    elif kind == 1 and members[name]:
        members[name] = change_bytes(members[name], rng)
    elif kind == 2:
        members[f"{name}{rng.choice(['x', '/data.pkl', '/../../x'])}"] = b"x"
    compressed = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(path, "w", compressed) as new:
        for member, data in members.items():
            new.writestr(member, data)


def make_damaged(folder: Path, weights: dict, seed: int) -> Path:
    rng = random.Random(seed)
    layout = to_transformers(weights) if rng.random() < 0.3 else weights
    how = rng.choice(["content", "bytes", "header", "member", "bytes", "content"])
    path = folder / f"{seed}.pt"
    if how == "content":
        changed = change_content(layout, rng)
        wrapped = rng.choice([changed, changed, {"state_dict": changed, "args": Namespace(a=1)}])
        torch.save(wrapped, path, _use_new_zipfile_serialization=rng.random() < 0.8)
        return path
    if how == "member" or (how == "bytes" and rng.random() < 0.5):
        torch.save(layout, path)
        if how == "member":
            change_member(path, rng)
            return path
    else:
        path = path.with_suffix(".safetensors")
        save_file(layout, path)
    if how == "header":
        change_header(path, rng)
    else:
        path.write_bytes(change_bytes(path.read_bytes(), rng))
    return path


def try_it(path: Path, expected: torch.Tensor) -> str:
    """Load and run a file; returns what happened. A traceback is raised."""
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    try:
        names.preprocessing(str(path))
        model = clip.load_model(str(path))
        with torch.no_grad():
            features = model.encode_image(image)
            texts = model.encode_text(clip.tokenize(["a cat"]))
    except UsageError as error:
        assert "\n" not in str(error) and len(str(error)) < 600, str(error)
        assert path.stem in str(error), str(error)
        return "refused"
    assert features.isfinite().all() and texts.isfinite().all()
    return "unchanged" if torch.equal(features, expected) else "other values"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return small_weights()


@pytest.fixture(scope="module")
def expected(weights, tmp_path_factory) -> torch.Tensor:
    path = tmp_path_factory.mktemp("whole") / "whole.pt"
    torch.save(weights, path)
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return clip.load_model(str(path)).encode_image(image)


@pytest.mark.parametrize("seed", range(60))
def test_damage_is_one_line(seed, weights, expected, tmp_path):
    path = make_damaged(tmp_path, weights, seed)
    assert try_it(path, expected) in ("refused", "unchanged", "other values")


def main(count: int) -> None:
    import tempfile
    import traceback

    weights, counts = small_weights(), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.pt"
        torch.save(weights, whole)
        image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = clip.load_model(str(whole)).encode_image(image)
        for seed in range(count):
            path = make_damaged(Path(folder), weights, seed)
            try:
                counts[try_it(path, expected)] += 1
            except Exception:
                counts["traceback"] += 1
                stream = io.StringIO()
                traceback.print_exc(file=stream)
                print(seed, path.name, stream.getvalue()[-700:])
            path.unlink()
    print(dict(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]))
