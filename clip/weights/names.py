"""What stands wherever a backbone is named.

- ``""`` or ``"small"``: the small CLIP that comes with this repository;
- OpenAI's names, ``"ViT-B/16"``, ``"RN50"``, ...;
- open_clip's architecture and tag, ``"ViT-B-32::laion2b_s34b_b79k"`` (``:`` does as well);
- ``"hf-hub:ORG/NAME"``: a model of the Hugging Face hub, open_clip's or transformers' files;
- the path of a file: a plain state dict (``torch.save``), a TorchScript archive, or safetensors,
  with the key names of OpenAI, open_clip or transformers, or the bundled file's compact ones. A
  configuration in its folder (``open_clip_config.json``, ``config.json``) is heeded;
- the path of a folder with such files, as the hub's repositories are;
- ``"ViT-B-32::PATH"``: a file whose activation, heads and image tower are those of an open_clip
  architecture. Shapes do not tell QuickGELU (OpenAI's, assumed without this) from plain GELU; a
  name of OpenAI's own (``"ViT-B/32::PATH"``) says QuickGELU, and so does an archive of OpenAI's.

Nothing here needs PyTorch, except what has to be looked up in open_clip's registry or in a file
that is not safetensors.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import UsageError
from common.files import write_json
from common.names import nearest
from common.reading import MissingFile, read_json

from . import configs, files, hub
from .configs import Facts, Preprocessing

BUNDLED = Path(__file__).parent.parent / "small" / "small_clip.safetensors"
HUB = "hf-hub:"
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
# Names that open_clip does not have (its RN50 has plain GELU).
OPENAI_ONLY = {name for name, theirs in hub.OPENAI_NAMES.items() if name != theirs}


class UnknownBackboneError(UsageError, KeyError):
    """No backbone of that name. A KeyError too, as looking it up in ``clip._MODELS`` promises."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class Backbone:
    """What a name means; nothing is downloaded yet.

    Attributes:
        path: the file, of one that lies on this machine.
        architecture: open_clip's name, of a registered model, or of a file read as one.
        tag: of a registered model.
        repository: ``ORG/NAME`` on the Hugging Face hub.
    """

    path: Path | None = None
    architecture: str = ""
    tag: str = ""
    repository: str = ""


@dataclass(frozen=True)
class CheckpointFile:
    """A backbone's weights on this machine.

    Attributes:
        facts: what is known of them beside their shapes.
        verified: whether it is OpenAI's own file, by the checksum that the registry states.
    """

    path: Path
    facts: Facts = field(default_factory=Facts)
    verified: bool = False


def resolve(name: str) -> Backbone:
    """Return what a name means, without downloading anything.

    Raises:
        UnknownBackboneError: no such name; says the nearest ones.
        MissingFile: a path to nothing.
        UsageError: a folder whose weights cannot be told, or a path that is no file.
    """
    if name in ("", "small"):
        return Backbone(BUNDLED)
    if name in hub.OPENAI_NAMES:
        return Backbone(architecture=hub.OPENAI_NAMES[name], tag="openai")
    if name.startswith(HUB):
        repository = name.removeprefix(HUB)
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):
            raise UsageError(f"backbone {_shown(name)}: a model of the hub is {HUB}ORG/NAME")
        return Backbone(repository=repository)
    if (path := _local(name)) is not None:
        return Backbone(path)
    architecture, tag = split_tag(name)
    if tag and hub.is_architecture(architecture):
        if (path := _local(tag)) is not None:
            return Backbone(path, architecture)
        if not _looks_like_path(tag):
            return Backbone(architecture=architecture, tag=tag)
        name = tag
    if _looks_like_path(name):
        raise MissingFile(f"backbone {_shown(name)}: no such file")
    raise UnknownBackboneError(_unknown(name))


def split_tag(name: str) -> tuple[str, str]:
    """``ViT-B-32::laion2b_e16`` or ``ViT-B-32:laion2b_e16`` -> architecture, tag (or empty)."""
    architecture, _, tag = name.partition("::" if "::" in name else ":")
    return hub.OPENAI_NAMES.get(architecture, architecture), tag


def _local(name: str) -> Path | None:
    """The weights file that a path means, if there is one."""
    path = Path(os.path.expanduser(name))
    try:
        if path.is_file():
            return path
        if not path.exists():
            return None
        if not path.is_dir():
            raise UsageError(f"backbone {_shown(name)}: neither a file nor a folder")
        found = [item for item in path.iterdir() if item.suffix in WEIGHTS and item.is_file()]
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise UsageError(f"backbone {_shown(name)}: {error.strerror}") from None
    for known in (*hub.OPEN_CLIP_WEIGHTS, *hub.TRANSFORMERS_WEIGHTS):
        if path / known in found:
            return path / known
    if len(found) == 1:
        return found[0]
    raise UsageError(
        f"backbone {_shown(name)}: a folder with {len(found)} files of weights, none of them "
        f"{' or '.join((*hub.OPEN_CLIP_WEIGHTS, *hub.TRANSFORMERS_WEIGHTS))}; name the file"
    )


def _shown(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:200]}..."


def _looks_like_path(name: str) -> bool:
    return name.endswith(WEIGHTS) or name.startswith((".", "/", "~"))


def _unknown(name: str) -> str:
    names = ["small", *hub.OPENAI_NAMES, *("::".join(pair) for pair in hub.tags())]
    hint = f"nearest known: {', '.join(near)}. " if (near := nearest(name, names, 4)) else ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        hint += f"A model of the Hugging Face hub is {HUB}{name}. "
    return (
        f"backbone {_shown(name)!r} is not known; {hint}It can be small, "
        f"{', '.join(hub.OPENAI_NAMES)}, an open_clip ARCHITECTURE::TAG, {HUB}ORG/NAME, or the "
        "path of a checkpoint"
    )


def locate(name: str, folder: Path | None = None) -> CheckpointFile:
    """Find a backbone's file, downloading it if it is a name and not in the cache.

    Args:
        folder: of downloads (default: ``hub.cache_folder()``).

    Raises:
        UnknownBackboneError: no such name; says the nearest ones.
        MissingFile: a path to nothing, or a download that failed; says what was tried.
        UsageError: a model that this project cannot run, or a bundled file that is not the one that
            was published; says why.
    """
    backbone = resolve(name)
    if backbone.repository:
        path = hub.fetch_repository(backbone.repository, folder)
        return CheckpointFile(path, configs.beside(path))
    if backbone.path is None:
        path, facts = hub.fetch(backbone.architecture, backbone.tag, folder)
        return CheckpointFile(path, facts, backbone.tag == "openai" and path.suffix == ".pt")
    path = backbone.path
    if path == BUNDLED:
        verify_bundled()
    facts = _facts_of_file(name, backbone)
    if "quick_gelu" in facts.settings and files.is_archive(path) and hub.is_openais(path):
        # whatever was said or lies beside it
        settings = {key: value for key, value in facts.settings.items() if key != "quick_gelu"}
        facts = replace(facts, settings=settings)
    return CheckpointFile(path, facts)


def _facts_of_file(name: str, backbone: Backbone) -> Facts:
    assert backbone.path is not None
    if not backbone.architecture:
        return configs.beside(backbone.path)
    is_openais = name.partition("::")[0] in OPENAI_ONLY
    facts = hub.facts(backbone.architecture, quick_gelu=is_openais)
    pixels = configs.beside(backbone.path).pixels or facts.pixels
    return replace(facts, pixels=pixels)


def preprocessing(name: str) -> Preprocessing:
    """Return the images that a backbone was trained on, without its weights where they are a name.

    Raises:
        UsageError: as `locate`.
    """
    if name in hub.OPENAI_NAMES:
        return Preprocessing(hub.OPENAI_RESOLUTIONS.get(name, 224))
    backbone = resolve(name)
    if backbone.repository:
        configuration = hub.fetch_configuration(backbone.repository)
        return configs.beside(configuration).pixels or Preprocessing()
    if backbone.path is None:
        return hub.facts(backbone.architecture, backbone.tag).pixels or Preprocessing()
    pixels = _facts_of_file(name, backbone).pixels or Preprocessing()
    if backbone.architecture:
        return pixels
    return replace(pixels, resolution=files.resolution(backbone.path) or pixels.resolution)


def weights_digest(name: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a backbone's file; "" for a registered name.

    Raises:
        UsageError: as `resolve`.
    """
    path = resolve(name).path
    if path is None:
        return ""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@functools.cache  # sweeps build hundreds of configurations with one backbone, noise tests models
def _digest(path: Path, *version: int) -> str:
    return hub.sha256(path)[:16]


def verify_bundled() -> None:
    """Raise UsageError unless the bundled CLIP is the one that was published with the code."""
    mend = f"restore it from the repository (git checkout {BUNDLED.name})"
    if not BUNDLED.is_file():
        raise MissingFile(f"{BUNDLED}: the bundled small CLIP is missing; {mend}")
    expected = read_json(digest_file(BUNDLED))
    if not isinstance(expected, dict) or expected.get("sha256") != hub.sha256(BUNDLED):
        raise UsageError(
            f"{BUNDLED}: damaged, or another file than {digest_file(BUNDLED).name} states; {mend}"
        )


def write_digest(path: Path) -> None:
    """Record the SHA-256 of a weights file beside it, where `verify_bundled` looks for it."""
    write_json({"sha256": hub.sha256(path)}, os.fspath(digest_file(path)))


def digest_file(path: Path) -> Path:
    """Where the SHA-256 of a weights file is recorded."""
    return path.with_suffix(".json")
