"""An upstream checkout's training steps, on this project's ``dassl``, in a process of its own.

The checkout's ``clip`` and ``trainers`` come first on the path and run as they are, in fp32. What
keeps them from a CPU is stood in for, here only: ``.cuda()`` and ``.half()`` do nothing, the
download finds the benchmark's weights. ProGrad's step, which its repository has in a Dassl of its
own, is written again here. As a program this is the process; it
takes a step for every line it reads, and answers with the seconds.
"""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    "CoOp": "coop",
    "CoCoOp": "cocoop",
    "CoPrompt": "coprompt",
    "MaPLe": "maple",
    "MMA": "mmadapter",
    "MMRL": "mmrl",
    "ProGrad": "prograd",
    "TCP": "tcp",
}
REGISTERED = {"MMA": "MultiModalAdapter"}  # all others have our name upstream, too
DATASET = "Synthetic"
TEMPLATE = "a photo of a {}."


class UpstreamSteps:
    """A context that holds the process; None as its value without a checkout.

    Args:
        checkout: folder of the repository, or None.
        work: one of MODULES on the CPU.
        folder: of the workload's weights and data.

    Raises:
        ValueError: another trainer, precision or device.
    """

    def __init__(self, checkout: str | None, work: Any, folder: Path):
        self.process = None
        if not checkout:
            return
        if work.trainer not in MODULES or (work.precision, work.device) != ("fp32", "cpu"):
            known = ", ".join(MODULES)
            raise ValueError(f"--upstream measures {known} in fp32 on the CPU, not {work}")
        if not (Path(checkout) / "trainers" / f"{MODULES[work.trainer]}.py").is_file():
            raise ValueError(f"--upstream {checkout}: no trainers/{MODULES[work.trainer]}.py in it")
        from benchmarks.workload import make_cfg

        settings = folder / "upstream.yaml"
        settings.write_text(make_cfg(work, folder).dump())
        # The checkout's packages come before ours of the same names.
        path = os.pathsep.join([str(Path(checkout).resolve()), str(ROOT)])
        command = [sys.executable, str(Path(__file__)), str(settings), json.dumps(work.as_dict())]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "UpstreamSteps | None":
        return self if self.process is not None else None

    def __exit__(self, *error: Any) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()

    def _ask(self, question: str) -> float:
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("upstream's code failed; its message is above")
        return float(answer)

    def step(self) -> float:
        """Seconds of one training step."""
        return self._ask("step")

    def test_batch(self) -> float:
        """Seconds of one batch's evaluation."""
        return self._ask("test")

    def peak_memory_mb(self) -> float:
        """Of the process so far (MiB)."""
        return self._ask("memory")


def _stand_in(weights: str, module: Any) -> None:
    import torch

    for owner in (torch.Tensor, torch.nn.Module):
        owner.cuda = lambda self, *args, **kwargs: self
        owner.half = lambda self, *args, **kwargs: self
    for clip in (importlib.import_module("clip.clip"), module.clip):
        clip._MODELS[weights] = weights
        clip._download = lambda url, *args: url
    getattr(module, "CUSTOM_TEMPLATES", {})[DATASET] = TEMPLATE
    if hasattr(module, "CUSTOM_TEMPLATES_ori"):  # TCP: the first is the one that is learned
        module.CUSTOM_TEMPLATES_ori[DATASET] = TEMPLATE
        module.CUSTOM_TEMPLATES[DATASET] = "X X X X {}."


def _add_settings(cfg: Any, trainer: str) -> None:
    """Add what upstream's train.py declares and ours calls otherwise."""
    from dassl.config.node import Config

    cfg.TRAINER.NAME = REGISTERED.get(trainer, trainer)
    if trainer == "ProGrad":
        cfg.LOSS = Config({"NAME": "prograd", "T": 1.0, "LAMBDA": 1.0})
    elif trainer == "TCP":
        cfg.TRAINER.COOP.W = cfg.TRAINER.TCP.W
        cfg.TRAINER.COOP.CTX_INIT = "a photo of a"
    elif trainer == "CoPrompt":
        own = cfg.TRAINER.COPROMPT
        cfg.TRAINER.CoPrompt = Config(own)
        cfg.TRAINER.W, cfg.TRAINER.DISTILL = own.W, own.DISTILL


def _describe_classes(module: Any, folder: Path, classes: list[str]) -> None:
    """Write the descriptions that CoPrompt reads below the current folder."""
    module.dataset_name_mapping[DATASET] = "synthetic"
    file = folder / "gpt_file" / "synthetic_prompt.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    names = [name.replace("_", " ") for name in classes]
    file.write_text(json.dumps({name: [TEMPLATE.format(name)] for name in names}))
    os.chdir(folder)


def build(settings: str, work: dict) -> tuple[Any, dict]:
    """Upstream's trainer and a batch for it."""
    import packaging.version
    import torch

    import common.torchvision_compat  # noqa: F401
    from benchmarks import synthetic  # noqa: F401  (registers the data set)
    from dassl.config.node import Config
    from dassl.engine import build_trainer

    if work["threads"]:
        torch.set_num_threads(work["threads"])
    cfg = Config.load_cfg(Path(settings).read_text())
    name = work["trainer"]
    _add_settings(cfg, name)
    cfg.freeze()
    # Older ones ask setuptools for packaging.version, which newer ones no longer have.
    sys.modules.setdefault("pkg_resources", SimpleNamespace(packaging=packaging))  # type: ignore
    module = importlib.import_module(f"trainers.{MODULES[name]}")
    _stand_in(cfg.MODEL.BACKBONE.NAME, module)
    if name == "CoPrompt":
        classes = synthetic.class_names(work["classes"])
        _describe_classes(module, Path(settings).resolve().parent, classes)
    trainer = build_trainer(cfg)
    if name == "ProGrad":
        trainer.prograd_backward_and_update = partial(_prograd_update, trainer)
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 10**9
    generator = torch.Generator().manual_seed(0)
    side = cfg.INPUT.SIZE[0]
    batch = {
        "img": torch.randn(work["batch"], 3, side, side, generator=generator),
        "label": torch.randint(0, work["classes"], (work["batch"],), generator=generator),
    }
    if name == "CoPrompt":
        batch["img"] = [batch["img"]] * 2
    return trainer, batch


def _prograd_update(trainer: Any, task: Any, guide: Any, share: float) -> None:
    """Take a step as Dassl.ProGrad's engine does: two passes backward, one projection."""
    parameters = list(trainer.model.prompt_learner.parameters())
    trainer.model_zero_grad()
    guide.backward(retain_graph=True)
    kept = [parameter.grad.clone() for parameter in parameters]
    trainer.model_zero_grad()
    task.backward()
    for parameter, other in zip(parameters, kept, strict=True):
        unit = other / other.norm().clamp_min(1e-12)
        along = (parameter.grad * unit).sum()
        if along < 0:
            parameter.grad -= share * along * unit
    trainer.model_update()


def main() -> None:
    import torch

    settings, work = sys.argv[1], json.loads(sys.argv[2])
    with contextlib.redirect_stdout(io.StringIO()):
        trainer, batch = build(settings, work)
    from benchmarks.clock import peak_memory_mb, seconds

    @torch.no_grad()
    def test() -> None:
        trainer.model_inference(batch["img"])

    for line in sys.stdin:
        question = line.strip()
        if question == "memory":
            answer = peak_memory_mb("cpu")
        elif question == "step":
            trainer.set_model_mode("train")
            answer = seconds(lambda: trainer.forward_backward(batch), "cpu", work["cpu_time"])
        else:
            trainer.set_model_mode("eval")
            answer = seconds(test, "cpu", work["cpu_time"])
        print(answer, flush=True)


if __name__ == "__main__":
    main()
