"""Pretrained weights by name, through open_clip's registry.

open_clip knows where weights are, their checksums and the configuration they need; this module
decides whether OpenAI's layout can express that configuration, and keeps the files.

open_clip takes seconds to import, so it is imported only when a name has to be looked up.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit
from urllib.request import getproxies

OPENAI_NAMES = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
"""OpenAI's name -> open_clip's name of the architecture."""

# What OpenAI's layout leaves open; any other setting must have open_clip's (and OpenAI's) default.
_FREE_VISION = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"}
_FREE_VISION |= {"patch_dropout"}  # acts in training only
_FREE_TEXT = {"context_length", "vocab_size", "width", "heads", "layers"}
_FREE_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}


def cache_folder() -> Path:
    """Where downloads are kept: ``CLIP_CACHE``, else ``~/.cache/clip`` as OpenAI and open_clip."""
    return Path(os.environ.get("CLIP_CACHE") or "~/.cache/clip").expanduser()


def _open_clip() -> ModuleType:
    import common.torchvision_compat  # noqa: F401

    try:
        import open_clip
    except ImportError:
        raise FileNotFoundError(
            "pretrained weights by name come through open_clip_torch, which is not installed: "
            "pip install open_clip_torch, or give the path of a checkpoint"
        ) from None
    return open_clip


def is_architecture(name: str) -> bool:
    return _open_clip().get_model_config(name) is not None


def input_resolution(architecture: str) -> int:
    """Side of the images in pixels that an architecture takes."""
    return _open_clip().get_model_config(architecture)["vision_cfg"].get("image_size", 224)


def tags() -> list[tuple[str, str]]:
    """All (architecture, tag) pairs of the registry, also those OpenAI's layout cannot express."""
    return _open_clip().list_pretrained()


def settings(architecture: str, quick_gelu: bool = False) -> dict[str, int | bool]:
    """Where this open_clip architecture departs from what OpenAI's layout implies.

    Args:
        quick_gelu: that weights are known to need it, whatever the architecture says.

    Returns:
        ``quick_gelu`` (False) if it uses plain GELU, ``vision_heads`` if they are not width // 64.

    Raises:
        ValueError: OpenAI's layout cannot express it; says which setting stands in the way.
    """
    return _settings(architecture, _open_clip().get_model_config(architecture), quick_gelu)


def settings_beside(path: Path) -> dict[str, int | bool]:
    """The same from the ``open_clip_config.json`` that open_clip's hub folders hold, if any."""
    file = path.parent / "open_clip_config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text("utf-8"))["model_cfg"]
        config["vision_cfg"], config["text_cfg"]  # noqa: B018 (a KeyError is what it is for)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{file}: not an open_clip configuration; remove or mend it") from None
    _open_clip()
    return _settings(str(file), config, quick_gelu=False)


def _settings(name: str, config: dict, quick_gelu: bool) -> dict[str, int | bool]:
    obstacle = next(_obstacles(config), None)
    if obstacle:
        raise ValueError(
            f"{name}: {obstacle} cannot be expressed in OpenAI's CLIP layout, which is all this "
            "project runs; choose a plain ViT or ResNet"
        )
    found: dict[str, int | bool] = {}
    if not (quick_gelu or config.get("quick_gelu")):
        found["quick_gelu"] = False
    vision = config["vision_cfg"]
    head_width = vision.get("head_width", 64)
    if isinstance(vision.get("layers", 12), int) and head_width != 64:
        found["vision_heads"] = vision["width"] // head_width
    return found


def _obstacles(config: dict) -> Iterator[str]:
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    towers = (
        ("vision_cfg", CLIPVisionCfg(), _FREE_VISION),
        ("text_cfg", CLIPTextCfg(), _FREE_TEXT),
    )
    # The towers first: they say more than init_logit_bias and the like, which go with them.
    for tower, defaults, free in towers:
        for key, value in config[tower].items():
            if key not in free and value != getattr(defaults, key, None):
                yield f"{tower}.{key} = {value!r}"
    size = config["vision_cfg"].get("image_size", 224)
    if not isinstance(size, int) and len(set(size)) != 1:
        yield f"vision_cfg.image_size = {size!r}"
    text = config["text_cfg"]
    if text.get("heads", 8) * 64 != text.get("width", 512):
        yield f"text_cfg.heads = {text['heads']!r} at width {text['width']!r}"
    for key in config:
        if key not in _FREE_MODEL and config[key] not in (None, False):
            yield f"{key} = {config[key]!r}"


def fetch(
    architecture: str, tag: str, folder: Path | None = None
) -> tuple[Path, dict[str, int | bool]]:
    """The local file of a registered tag, downloaded if need be, and its ``settings``.

    A source whose checksum the registry states comes first; the file is checked against it.

    Raises:
        ValueError: not in the registry, not expressible, or a file with a wrong checksum.
        FileNotFoundError: nothing in the cache and nothing to be had from the network.
    """
    registry = _open_clip().pretrained
    entry = registry.get_pretrained_cfg(architecture, tag)
    if not entry:
        known = ", ".join(registry.list_pretrained_tags_by_model(architecture)) or "none"
        raise ValueError(f"{architecture} has no pretrained tag {tag!r}; it has: {known}")
    # Some tags of an architecture with plain GELU were trained with QuickGELU, and say so.
    needed = settings(architecture, entry.get("quick_gelu", False))
    name = f"{architecture}::{tag}"
    by_path = _by_path(architecture, needed)
    path = _fetch(name, entry.get("url", ""), entry.get("hf_hub", ""), folder, by_path)
    _warn_of_other_pixels(name, entry)
    return path, needed


def _by_path(architecture: str, needed: dict[str, int | bool]) -> str:
    """How to name a local file of weights that need these settings."""
    quick = f"{architecture}-quickgelu"
    if settings(architecture) == needed:
        return f"{architecture}::PATH"
    return f"{quick}::PATH" if is_architecture(quick) else "its path alone"


def _fetch(name: str, url: str, hub: str, folder: Path | None, by_path: str) -> Path:
    # Without a folder of the user's choice, the hub's own cache is where such files are kept.
    hub_folder = folder or (cache_folder() if os.environ.get("CLIP_CACHE") else None)
    folder = folder or cache_folder()
    tries = [(url, _from_url, folder), (hub, _from_hub, hub_folder)]
    if url and not stated_sha256(url):
        tries.reverse()  # the hub at least checks that a download is complete
    failures = []
    for source, get, where in tries:
        if source:
            try:
                return get(source, where)
            except (OSError, RuntimeError) as error:  # open_clip's checksum failure: RuntimeError
                failures.append(f"{source} ({' '.join(str(error).split())[:200]})")
    place = f"put the file at {folder / url.rsplit('/', 1)[-1]} or " if url else ""
    raise FileNotFoundError(
        f"{name}: not in {folder}, and could not be had from {', nor from '.join(failures)}; "
        f"{place}get it elsewhere and give {by_path}"
    )


def _from_url(url: str, folder: Path) -> Path:
    target = folder / url.rsplit("/", 1)[-1]
    if target.exists():
        verify(target, stated_sha256(url))
        return target
    folder.mkdir(parents=True, exist_ok=True)
    # open_clip writes to the final name; a download that breaks off must not stand there.
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as unfinished:
        got = _open_clip().pretrained.download_pretrained_from_url(url, cache_dir=unfinished)
        if not (stated_sha256(url) or _is_whole(Path(got))):
            raise OSError("the download broke off")
        os.replace(got, target)
    return target


def _is_whole(path: Path) -> bool:
    """Whether a file that begins as torch.save's do has its end as well."""
    with open(path, "rb") as file:
        begins_as_zip = file.read(4) == b"PK\x03\x04"
    return not begins_as_zip or zipfile.is_zipfile(path)


def is_openais(path: Path) -> bool:
    """Whether a file is one of OpenAI's, by the checksums that the registry states."""
    registry = _open_clip().pretrained
    found = sha256(path)
    for architecture in OPENAI_NAMES.values():
        url = registry.get_pretrained_cfg(architecture, "openai").get("url", "")
        stated = stated_sha256(url)
        if stated and found.startswith(stated):
            return True
    return False


def _from_hub(hub: str, folder: Path | None) -> Path:
    import huggingface_hub

    open_clip = _open_clip()
    repository, _, filename = hub.rpartition("/")
    cache = str(folder) if folder else None
    names = (open_clip.constants.HF_SAFE_WEIGHTS_NAME, open_clip.constants.HF_WEIGHTS_NAME)
    for name in (filename,) if filename else names:
        found = huggingface_hub.try_to_load_from_cache(repository, name, cache_dir=cache)
        if isinstance(found, str):
            return Path(found)
    if not getproxies():
        # Fails at once where names do not resolve; the hub's client would retry for a minute.
        socket.getaddrinfo(urlsplit(huggingface_hub.constants.ENDPOINT).hostname, 443)
    download = open_clip.pretrained.download_pretrained_from_hf
    return Path(download(repository, filename=filename or None, cache_dir=cache))


def stated_sha256(url: str) -> str:
    """The checksum, or its first digits, that a registry URL carries; empty if it carries none."""
    *_, folder, filename = url.split("/")
    if "openaipublic" in url:
        return folder
    if "mlfoundations" in url:
        return filename.rsplit(".", 1)[0].rsplit("-", 1)[-1]
    return ""


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, expected: str) -> None:
    """Raises ValueError if the file's SHA-256 does not begin with ``expected``."""
    if expected and not (found := sha256(path)).startswith(expected):
        raise ValueError(
            f"{path}: its SHA-256 is {found[:16]}..., the registry states {expected[:16]}...; "
            "truncated or another file. Move it away to have it downloaded again"
        )


def _warn_of_other_pixels(name: str, entry: dict) -> None:
    constants = _open_clip().constants
    usual = (constants.OPENAI_DATASET_MEAN, constants.OPENAI_DATASET_STD)
    mean, std = entry.get("mean", usual[0]), entry.get("std", usual[1])
    if (tuple(mean), tuple(std)) != (tuple(usual[0]), tuple(usual[1])):
        warnings.warn(
            f"{name} was trained with pixel mean {mean} and std {std}: set INPUT.PIXEL_MEAN and "
            "INPUT.PIXEL_STD accordingly",
            stacklevel=2,
        )
