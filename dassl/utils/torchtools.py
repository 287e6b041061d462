"""Checkpoints, and small questions about modules.

A checkpoint written here is a dictionary of tensors (on the CPU), numbers, strings, lists and
dictionaries, and a digest over all of them. It loads with ``torch.load(weights_only=True)``, so
reading one can run no foreign code, and it replaces an older file only when it is complete on disk.
Numbers that are not finite are neither written nor read.
"""

import contextlib
import io
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from common.checkpoints import BEST, POINTER, checkpoint_name
from common.errors import UsageError
from common.files import atomic_write

from .integrity import (
    FINITE,
    NotFiniteError,
    check_archive,
    check_extent,
    check_finite,
    content_digest,
)

__all__ = [
    "count_num_param",
    "load_checkpoint",
    "load_pretrained_weights",
    "read_pointer",
    "resume_from_checkpoint",
    "save_checkpoint",
    "to_plain",
]

DIGEST = "digest"  # a checkpoint's entry: the digest over all others

# Their state has one tensor per parameter, of its shape.
_ELEMENTWISE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
)
# What the parts of a damaged file raise when they are put to use.
_BAD_CONTENT = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


def to_plain(value: Any) -> Any:
    """Return a copy of nested data as CPU tensors, numbers, strings, lists, tuples, dictionaries.

    Tensors are cloned, because saving a slice would store the whole tensor it was cut from.

    Raises:
        TypeError: something else is in it.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool):
        return value
    for scalar in (int, float, str):
        if isinstance(value, scalar):
            return scalar(value)
    if isinstance(value, dict):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


def _without_module_prefix(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return keys as the bare module has them, of weights saved from ``nn.DataParallel``."""
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
    verbose: bool = True,
) -> str:
    """Write a checkpoint and make the folder's ``checkpoint`` file name it.

    Args:
        state: at least ``state_dict`` and ``epoch`` (the number of finished epochs).
        save_dir: folder; created if missing.
        is_best: write the same content to ``model-best.pth.tar`` as well.
        remove_module_from_keys: drop the ``module.`` that ``nn.DataParallel`` puts before keys.
        model_name: file name; by default ``model.pth.tar-<epoch>``.
        verbose: print where it went.

    Returns:
        The path written.

    Raises:
        NotFiniteError: a learned tensor or a number of the optimiser is not finite. Nothing is
            written then.
    """
    state = to_plain(state)
    if remove_module_from_keys:
        state["state_dict"] = _without_module_prefix(state["state_dict"])
    for part in FINITE:
        check_finite(state.get(part), part)
    state[DIGEST] = content_digest({key: part for key, part in state.items() if key != DIGEST})
    name = model_name or checkpoint_name(state["epoch"])
    path = os.path.join(save_dir, name)
    write_tensors(state, path)
    if verbose:
        print(f"Checkpoint saved to {path}")
    with atomic_write(os.path.join(save_dir, POINTER)) as file:
        file.write(name + "\n")
    if is_best:
        best_path = os.path.join(save_dir, BEST)
        write_tensors(state, best_path)
        if verbose:
            print(f'Best checkpoint saved to "{best_path}"')
    return path


def write_tensors(content: Any, path: str | os.PathLike) -> None:
    """Write what ``torch.save`` takes, atomically.

    Raises:
        OSError: with the file's name. On a file, torch turns that into an error of its own.
    """
    whole = io.BytesIO()
    torch.save(content, whole)
    with atomic_write(path, "wb") as file:
        file.write(whole.getbuffer())


class _Ignored:
    """Takes the place of an object whose class is not allowed in a checkpoint. Does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _plain_dict(*_: Any) -> dict:
    """Takes the place of ``collections.defaultdict``, which the unpickler goes on to fill."""
    return {}


def load_checkpoint(fpath: str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code from it, and check it for damage.

    Its digest is compared with what was read. A file without one, written by another program or by
    an earlier version, is read with a line that says so.

    Files written by Dassl itself hold a live scheduler object. Such objects are not built: an inert
    placeholder stands where they were, and the tensors around them are read.

    Raises:
        UsageError: no such file, a damaged one, one that holds no dictionary, numbers that are not
            finite, or another epoch than its name says; names the file.
    """
    if not fpath or not os.path.isfile(fpath):
        raise UsageError(f"no checkpoint at {fpath!r}")
    try:
        check_archive(fpath)
        checkpoint = _read(fpath)
        check_extent(checkpoint)
    except Exception as error:  # torch.load raises many unrelated types on damaged files
        reason = str(error).split("WeightsUnpickler error: ")[-1].strip().split(". ")[0][:150]
        raise UsageError(
            f"{fpath} cannot be read as a checkpoint, it is damaged or something else "
            f"({type(error).__name__}: {reason}); remove it or name another"
        ) from error
    if not isinstance(checkpoint, dict):
        raise UsageError(
            f"{fpath} holds a {type(checkpoint).__name__}, not a checkpoint dictionary"
        )
    _check_content(fpath, checkpoint)
    return checkpoint


def _check_content(fpath: str, checkpoint: dict[str, Any]) -> None:
    """Compare a checkpoint with its digest and its file's name, and look for NaN and infinities."""
    given = checkpoint.get(DIGEST)
    if given is None:
        if "epoch" in checkpoint:  # else weights without a training, which never have one
            print(f'"{fpath}" has no digest (written by an earlier version or another program)')
    else:
        content = {key: part for key, part in checkpoint.items() if key != DIGEST}
        try:
            matches = content_digest(content) == given
        except TypeError:
            matches = False
        if not matches:
            raise UsageError(
                f"{fpath} is damaged or was edited: its content does not match its digest; "
                "put the original back, or remove it"
            )
    try:
        for part in FINITE:
            check_finite(checkpoint.get(part), part)
    except NotFiniteError as error:
        raise UsageError(f"{fpath} is of no use: {error}; remove it or name another") from None
    named = re.fullmatch(r"model\.pth\.tar-(\d+)", os.path.basename(fpath))
    epoch = checkpoint.get("epoch")
    if named and type(epoch) is int and epoch != int(named[1]):
        raise UsageError(
            f"{fpath} was written after {epoch} epochs, not after {named[1]} as its name says; "
            "put the file of that name back, or remove it"
        )


def _read(fpath: str) -> Any:
    try:
        return torch.load(fpath, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(fpath)
        if not unknown:
            raise
        stand_ins = {"collections.defaultdict": _plain_dict}
        allowed: list[Any] = [(stand_ins.get(name, _Ignored), name) for name in unknown]
        with torch.serialization.safe_globals(allowed):
            return torch.load(fpath, map_location="cpu", weights_only=True)


def read_pointer(fdir: str) -> str | None:
    """Return the path of the file that a model folder's ``checkpoint`` names, if there is one.

    Raises:
        UsageError: the pointer is empty, or what it names is not there.
    """
    pointer = os.path.join(fdir, POINTER)
    if not os.path.isfile(pointer):
        return None
    with open(pointer, encoding="utf-8", errors="replace") as file:
        name = file.readline(500).strip().replace("\0", "")
    path = os.path.join(fdir, name)
    if not name or os.path.basename(name) != name or not os.path.isfile(path):
        raise UsageError(
            f"{pointer} names {name!r}, which is not in {fdir}; write an existing file's name "
            "into it, or remove it to start from scratch"
        )
    return path


def resume_from_checkpoint(
    fdir: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
) -> int:
    """Load the newest checkpoint of a model folder into a model and, if given, its optimiser and
    schedule.

    Returns:
        The number of epochs that were finished, which is the index of the next one.

    Raises:
        UsageError: there is none, or it does not fit.
    """
    path = read_pointer(fdir)
    if path is None:
        raise UsageError(f"no checkpoint to resume from in {fdir}")
    print(f'Loading checkpoint from "{path}"')
    checkpoint = load_checkpoint(path)
    restore(path, checkpoint, model, optimizer, scheduler)
    print(f"Previous epoch: {checkpoint['epoch']}")
    return checkpoint["epoch"]


def check_fits(path: str, checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Refuse a checkpoint whose tensors are not the model's, before anything is changed.

    Raises:
        UsageError: names the file and the first tensor that differs.
    """
    state_dict, epoch = checkpoint.get("state_dict"), checkpoint.get("epoch")
    if not isinstance(state_dict, dict) or type(epoch) is not int or not 0 <= epoch < 2**31:
        raise UsageError(f"{path} is not a training checkpoint: it has no state_dict and epoch")
    own = model.state_dict()
    for key, tensor in own.items():
        if key not in state_dict:
            raise UsageError(f"{path} is of another model: it has no tensor {key!r}")
        if not isinstance(state_dict[key], torch.Tensor):
            raise UsageError(f"{path} is not a training checkpoint: {key!r} is no tensor")
        if tensor.shape != state_dict[key].shape:
            raise UsageError(
                f"{path} is of another model: {key!r} has shape {tuple(state_dict[key].shape)}, "
                f"here it is {tuple(tensor.shape)}"
            )
        if _kind(tensor.dtype) != _kind(state_dict[key].dtype):
            raise UsageError(
                f"{path} is of another model: {key!r} is {state_dict[key].dtype}, "
                f"here it is {tensor.dtype}"
            )
    for key in state_dict:
        if key not in own:
            raise UsageError(f"{path} is of another model: {key!r} is unknown here")


def _kind(dtype: torch.dtype) -> str:
    """Return what numbers of a type are, however many bits they have."""
    if dtype.is_complex:
        return "complex"
    return "real" if dtype.is_floating_point else "bool" if dtype is torch.bool else "whole"


def restore(
    path: str,
    checkpoint: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    scheduler: Any,
) -> None:
    """Put a loaded checkpoint into a model, optimiser and schedule (the latter two may be None).

    Raises:
        UsageError: a part is missing or does not fit; names the file.
    """
    check_fits(path, checkpoint, model)
    for part, name in ((optimizer, "optimizer"), (scheduler, "scheduler")):
        if part is not None and not isinstance(checkpoint.get(name), dict):
            raise UsageError(f"{path} cannot be resumed from: it has no {name} state")
    with content_of(path, "this optimiser and schedule"):
        if optimizer is not None:
            _load_optimizer(optimizer, checkpoint["optimizer"])
        if scheduler is not None:
            scheduler.load_state_dict(checkpoint["scheduler"])
    model.load_state_dict(checkpoint["state_dict"])


@contextlib.contextmanager
def content_of(path: str, what: str) -> Iterator[None]:
    """Turn what a file's bad content raises into a ``UsageError`` that names the file.

    Args:
        what: what the content does not go with.
    """
    try:
        yield
    except UsageError:
        raise
    except _BAD_CONTENT as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{path} cannot be resumed from with {what} ({reason})") from error


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state after a look at what torch takes without one."""
    for own, given in zip(optimizer.param_groups, state["param_groups"], strict=True):
        for key, value in own.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and type(given.get(key, value)) not in (int, float):
                raise ValueError(f"{key} is {given[key]!r}, which is no number")
    if isinstance(optimizer, _ELEMENTWISE):
        parameters = [item for group in optimizer.param_groups for item in group["params"]]
        for number, values in state["state"].items():
            for key, value in values.items():
                is_tensor = isinstance(value, torch.Tensor) and value.dim() > 0
                if is_tensor and value.shape != parameters[number].shape:
                    raise ValueError(f"{key} of parameter {number} has another shape")
    optimizer.load_state_dict(state)


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Copy into ``model`` whatever tensors of a file fit it by name and shape; say which did not.

    Args:
        model: changed in place.
        weight_path: a checkpoint, or a bare state dictionary.
    """
    checkpoint = load_checkpoint(weight_path)
    given = _without_module_prefix(checkpoint.get("state_dict", checkpoint))
    own = model.state_dict()
    fitting = {
        key: tensor
        for key, tensor in given.items()
        if key in own and isinstance(tensor, torch.Tensor) and tensor.shape == own[key].shape
    }
    if not fitting:
        warnings.warn(
            f"Cannot load {weight_path}: no tensor in it fits the model by name and shape",
            stacklevel=2,
        )
        return
    model.load_state_dict({**own, **fitting})
    print(f"Successfully loaded pretrained weights from {weight_path}")
    discarded = [key for key in given if key not in fitting]
    if discarded:
        print(f"Layers discarded due to unmatched keys or size: {discarded}")


def count_num_param(model: nn.Module | None = None, params: Iterable | None = None) -> int:
    """Return the number of values in a module's parameters, or in tensors or optimiser groups."""
    if model is not None:
        params = model.parameters()
    if params is None:
        raise ValueError("count_num_param() needs a model or params")
    total = 0
    for item in params:
        group = item["params"] if isinstance(item, dict) else item
        tensors = [group] if isinstance(group, torch.Tensor) else group
        total += sum(tensor.numel() for tensor in tensors)
    return total
