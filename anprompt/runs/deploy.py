"""A trained model as one file that runs without this project: ONNX, or a program of PyTorch's.

Either holds a graph from prepared images (B, 3, H, W) to class probabilities (B, C), any B, with
the image tower's weights and the features of the classes inside; the text tower is left out. What
prepares images and the names of the classes stand beside it: in an ONNX file's metadata, in the
program's extra file ``model.json``. Numbers are fp32. Before a file is kept, it is run and compared
with the model.
"""

import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anprompt.runs.calibration import Scaling
from anprompt.runs.export import check_finite, describe
from anprompt.runs.trained import TrainedModel
from common.errors import UsageError, one_line
from common.files import atomic_write
from trainers.base import PromptedCLIP

UNSCALED = Scaling()
CLOSE = 1e-4  # probabilities of the file and of the model
DESCRIPTION = "model.json"
BATCHES = (1, 3)  # that a file is tried with
TEXT_ONLY = ("transformer", "token_embedding")  # parts of CLIP that images do not meet


class Deployed(nn.Module):
    """Images (B, 3, H, W), prepared, to class probabilities (B, C).

    Raises:
        UsageError: the classes' features depend on the image.
    """

    class_features: Tensor

    def __init__(self, trained: TrainedModel, scaling: Scaling = UNSCALED):
        super().__init__()
        self.scaling = scaling
        model = trained.model.merged()
        state = model.class_state()
        if not isinstance(state, Tensor):
            raise UsageError(
                f"{trained.cfg.TRAINER.NAME} has class features that depend on the image, so its "
                "text tower runs for every image; export it as safetensors"
            )
        self.model = _without_text_tower(model)
        self.register_buffer("class_features", state.detach())
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.model.classify(self.model.encode(image), self.class_features)
        return self.scaling(logits[self.model.rule].float()).softmax(dim=-1)


def write_program(
    trained: TrainedModel, classnames: list[str], path: str | Path, scaling: Scaling = UNSCALED
) -> None:
    """Write a program that ``torch.export.load`` reads.

    Raises:
        UsageError: the model cannot be written so, or the file answers otherwise than it.
    """
    deployed, example = _ready(trained, scaling)
    batch = torch.export.Dim("batch", min=1)
    with _exporting():
        program = torch.export.export(
            deployed, (example,), dynamic_shapes={"image": {0: batch}}, strict=False
        )
        content = io.BytesIO()
        extra = {DESCRIPTION: json.dumps(_about(trained, classnames, scaling))}
        torch.export.save(program, content, extra_files=extra)
        content.seek(0)
        answer = torch.export.load(content).module()
    _compare(deployed, lambda image: answer(image).numpy(), example)
    _write(path, content.getvalue())


def write_onnx(
    trained: TrainedModel, classnames: list[str], path: str | Path, scaling: Scaling = UNSCALED
) -> None:
    """Write an ONNX file: ``image`` in, ``probabilities`` out.

    Raises:
        UsageError: a package is missing, the model cannot be written so, or the file answers
            otherwise than it.
    """
    runtime = [_package(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    deployed, example = _ready(trained, scaling)
    with _exporting():
        program: Any = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
        )
        for name, value in _about(trained, classnames, scaling).items():
            program.model.metadata_props[name] = (
                value if isinstance(value, str) else json.dumps(value)
            )
        content = program.model_proto.SerializeToString()
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    _compare(deployed, lambda image: session.run(None, {"image": image.numpy()})[0], example)
    _write(path, content)


def _about(trained: TrainedModel, classnames: list[str], scaling: Scaling) -> dict[str, Any]:
    """Return the description that stands beside a graph."""
    scaled = {"temperature": scaling.temperature, "dac": scaling.factors is not None}
    return describe(trained, classnames) | scaled


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(
            f"--format onnx needs the package {name}: pip install -r requirements-onnx.txt"
        ) from None


def _ready(trained: TrainedModel, scaling: Scaling = UNSCALED) -> tuple[Deployed, Tensor]:
    """Return the graph's module, run once so that what it keeps is made, and images to trace."""
    deployed = Deployed(trained, scaling)
    check_finite(deployed.state_dict(), "this model")
    height, width = trained.cfg.INPUT.SIZE
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(max(BATCHES), 3, height, width, generator=generator)
    with torch.no_grad():
        deployed(example)
    return deployed, example


@torch.no_grad()
def _compare(deployed: Deployed, answer: Callable[[Tensor], np.ndarray], example: Tensor) -> None:
    """Raise UsageError unless a file answers as the model does, for each size of batch."""
    for size in BATCHES:
        expected = deployed(example[:size]).numpy()
        difference = float(np.abs(answer(example[:size]) - expected).max())
        if not difference <= CLOSE:
            raise UsageError(
                f"the file's probabilities differ from the model's by {difference:.1e}, and were "
                "not written; another version of torch or onnxruntime may do"
            )


def _write(path: str | Path, content: bytes) -> None:
    with atomic_write(str(path), "wb") as file:
        file.write(content)


def _without_text_tower(model: Any) -> Any:
    """Return a model that shares everything with ``model`` but the text tower, which it lacks."""
    small = _shallow(model)
    small.clip = _shallow(model.clip)
    for name in TEXT_ONLY:
        del small.clip._modules[name]
    for name in model.only_for_texts:
        del small._modules[name]
    for name, part in small._modules.items():
        if isinstance(part, PromptedCLIP):  # DePT's host, with the same CLIP
            small._modules[name] = _without_text_tower(part)
    return small


def _shallow(module: nn.Module) -> Any:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


@contextmanager
def _exporting() -> Iterator[None]:
    """Make a graph without gradients, and keep what exporters say of their workings to itself.

    Raises:
        UsageError: they fail.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        except Exception as error:  # whatever exporters raise at what they do not know
            raise UsageError(
                f"torch {torch.__version__} makes no graph of this model ({type(error).__name__}: "
                f"{_reason(error)}); another version may, or export it as safetensors"
            ) from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Return the beginning of an exporter's message; other tracebacks are quoted further down."""
    lines = [line.strip() for line in str(error).partition("Traceback")[0].splitlines()]
    said = " ".join(line for line in lines if line)
    return one_line(RuntimeError(said or "it does not say why"))[:200]
