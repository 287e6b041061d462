"""Pretrained weights by name: open_clip's registry, and the Hugging Face hub.

open_clip knows where weights are, their checksums and the configuration they need. It takes seconds
to import, so that is done only when a name has to be looked up.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from common.errors import UsageError, one_line
from common.reading import MissingFile

from . import configs
from .configs import Facts

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

OPENAI_RESOLUTIONS = {"RN50x4": 288, "RN50x16": 384, "RN50x64": 448, "ViT-L/14@336px": 336}
"""Side of the images in pixels, where it is not 224."""

OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TRANSFORMERS_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def cache_folder() -> Path:
    """Where downloads are kept: ``CLIP_CACHE``, else ``~/.cache/clip`` as OpenAI and open_clip."""
    return Path(os.path.expanduser(os.environ.get("CLIP_CACHE") or "~/.cache/clip"))


def _open_clip() -> ModuleType:
    import common.torchvision_compat  # noqa: F401

    try:
        import open_clip
    except ImportError:
        raise UsageError(
            "pretrained weights by name come through open_clip_torch, which is not installed: "
            "pip install open_clip_torch, or give the path of a checkpoint"
        ) from None
    return open_clip


def is_architecture(name: str) -> bool:
    """Whether open_clip has an architecture of this name."""
    return name in _open_clip().list_models()


def config(architecture: str) -> dict[str, Any]:
    """Return the configuration of one of open_clip's architectures."""
    return _open_clip().get_model_config(architecture)


def tags() -> list[tuple[str, str]]:
    """All (architecture, tag) pairs of the registry, also those that this project cannot run."""
    return _open_clip().list_pretrained()


def facts(architecture: str, tag: str = "", quick_gelu: bool = False) -> Facts:
    """Return what a registered model needs.

    Args:
        tag: the weights; "" for the architecture alone, whose pixels are OpenAI's.
        quick_gelu: that weights are known to need it, whatever the architecture says.

    Raises:
        UsageError: there is no such tag, or this project cannot run it; says why.
    """
    entry = _entry(architecture, tag) if tag else {}
    # Some tags of an architecture with plain GELU were trained with QuickGELU, and say so.
    quick_gelu = quick_gelu or entry.get("quick_gelu", False)
    name = f"{architecture}::{tag}" if tag else architecture
    return configs.of_open_clip(name, config(architecture), entry, quick_gelu)


def _entry(architecture: str, tag: str) -> dict[str, Any]:
    registry = _open_clip().pretrained
    entry = registry.get_pretrained_cfg(architecture, tag)
    if not entry:
        known = ", ".join(registry.list_pretrained_tags_by_model(architecture)) or "none"
        raise UsageError(f"{architecture} has no pretrained tag {tag!r}; it has: {known}")
    return entry


def fetch(architecture: str, tag: str, folder: Path | None = None) -> tuple[Path, Facts]:
    """Return the local file of a registered tag, downloaded if need be, and what it needs.

    A source whose checksum the registry states comes first; the file is checked against it.

    Raises:
        UsageError: not in the registry, not to be run here, a file with a wrong checksum, or
            nothing in the cache and nothing to be had from the network.
    """
    entry, needed = _entry(architecture, tag), facts(architecture, tag)
    url, repository = entry.get("url", ""), entry.get("hf_hub", "")
    where = folder or cache_folder()
    tries: list[tuple[str, Any]] = [(url, _from_url), (repository, _from_hub)]
    if url and not stated_sha256(url):
        tries.reverse()  # the hub at least checks that a download is complete
    failures = []
    for source, get in tries:
        if source:
            try:
                return get(source, folder), needed
            except UsageError:
                raise
            except (OSError, RuntimeError) as error:  # open_clip's checksum failure: RuntimeError
                failures.append(f"{source} ({one_line(error)[:200]})")
    place = f"put the file at {where / url.rsplit('/', 1)[-1]} or " if url else ""
    raise MissingFile(
        f"{architecture}::{tag}: not in {where}, and could not be had from "
        f"{', nor from '.join(failures)}; {place}get it elsewhere and give "
        f"{_by_path(architecture, needed)}"
    )


def _by_path(architecture: str, needed: Facts) -> str:
    """How to name a local file of weights that need these settings."""
    quick = f"{architecture}-quickgelu"
    if facts(architecture).settings == needed.settings:
        return f"{architecture}::PATH"
    return f"{quick}::PATH" if is_architecture(quick) else "its path alone"


def _from_url(url: str, folder: Path | None) -> Path:
    folder = folder or cache_folder()
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


def _from_hub(entry: str, folder: Path | None) -> Path:
    """A registry's ``ORG/NAME/FILE``; without a file, what open_clip calls its weights."""
    repository, _, filename = entry.rpartition("/")
    return _first_of(repository, (filename,) if filename else OPEN_CLIP_WEIGHTS, folder)


def fetch_configuration(repository: str, folder: Path | None = None) -> Path:
    """Return the local file of a hub model's configuration, open_clip's if it has one.

    What transformers says of the pixels lies beside it.

    Raises:
        MissingFile: neither in the cache nor to be had.
    """
    try:
        try:
            return _hub_file(repository, configs.OPEN_CLIP, folder)
        except _absent():
            path = _hub_file(repository, configs.TRANSFORMERS, folder)
        try:
            _hub_file(repository, configs.TRANSFORMERS_PIXELS, folder)
        except _absent():
            pass
        return path
    except (OSError, ValueError) as error:
        raise _not_to_be_had(repository, error) from None


def fetch_repository(repository: str, folder: Path | None = None) -> Path:
    """Return the local file of a hub model's weights; its configuration lies beside it.

    Raises:
        UsageError: this project cannot run it; says why, before the weights are downloaded.
        MissingFile: neither in the cache nor to be had.
    """
    configuration = fetch_configuration(repository, folder)
    is_open_clips = configuration.name == configs.OPEN_CLIP
    names = OPEN_CLIP_WEIGHTS if is_open_clips else TRANSFORMERS_WEIGHTS
    configs.beside(configuration.with_name(names[0]))
    try:
        return _first_of(repository, names, folder)
    except (OSError, ValueError) as error:
        raise _not_to_be_had(repository, error) from None


def _not_to_be_had(repository: str, error: Exception) -> UsageError:
    return MissingFile(
        f"hf-hub:{repository}: could not be had ({one_line(error)[:200]}); check the name, or get "
        "the repository elsewhere and give its folder"
    )


def _first_of(repository: str, names: tuple[str, ...], folder: Path | None) -> Path:
    for name in names[:-1]:
        try:
            return _hub_file(repository, name, folder)
        except _absent():
            continue
    return _hub_file(repository, names[-1], folder)


def _absent() -> type[Exception]:
    from huggingface_hub.errors import EntryNotFoundError

    return EntryNotFoundError


def _hub_file(repository: str, name: str, folder: Path | None) -> Path:
    """One file of a hub repository: from the cache, or downloaded."""
    import huggingface_hub

    if folder is None and os.environ.get("CLIP_CACHE"):
        folder = cache_folder()  # else the hub's own cache, where such files are usually kept
    cached = huggingface_hub.try_to_load_from_cache(repository, name, cache_dir=folder)
    if isinstance(cached, str):
        return Path(cached)
    if not getproxies():
        # Fails at once where names do not resolve; the hub's client would retry for a minute.
        socket.getaddrinfo(urlsplit(huggingface_hub.constants.ENDPOINT).hostname, 443)
    return Path(huggingface_hub.hf_hub_download(repository, name, cache_dir=folder))


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


def stated_sha256(url: str) -> str:
    """The checksum, or its first digits, that a registry URL carries; empty if it carries none."""
    *_, folder, filename = url.split("/")
    if "openaipublic" in url:
        return folder
    if "mlfoundations" in url:
        return filename.rsplit(".", 1)[0].rsplit("-", 1)[-1]
    return ""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, expected: str) -> None:
    """Raise UsageError if the file's SHA-256 does not begin with ``expected``."""
    if expected and not (found := sha256(path)).startswith(expected):
        raise UsageError(
            f"{path}: its SHA-256 is {found[:16]}..., the registry states {expected[:16]}...; "
            "truncated or another file. Move it away to have it downloaded again"
        )
