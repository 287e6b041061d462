"""An upstream checkout's training steps, on this project's ``dassl``, in a process of its own.

The checkout's ``clip`` and ``trainers`` come first on the path and run as they are, in fp32. What
keeps them from a CPU is stood in for, here only: ``.cuda()`` and ``.half()`` do nothing, the
download finds the benchmark's weights. As a program this is the process; it takes a step for every
line it reads, and answers with the seconds.
"""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODULES = {"CoOp": "coop", "CoCoOp": "cocoop", "MaPLe": "maple", "MMRL": "mmrl"}
TEMPLATE = "a photo of a {}."


class UpstreamSteps:
    """A context that holds the process; None as its value without a checkout.

    Args:
        checkout: folder of the repository, or None.
        work: one of CoOp, CoCoOp, MaPLe, MMRL on the CPU.
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


def _stand_in(weights: str) -> None:
    import torch

    for owner in (torch.Tensor, torch.nn.Module):
        owner.cuda = lambda self, *args, **kwargs: self
        owner.half = lambda self, *args, **kwargs: self
    clip = importlib.import_module("clip.clip")
    clip._MODELS[weights] = weights
    clip._download = lambda url, *args: url


def build(settings: str, work: dict) -> tuple[Any, dict]:
    """Upstream's trainer and a batch for it."""
    import torch

    import common.torchvision_compat  # noqa: F401
    from benchmarks import synthetic  # noqa: F401  (registers the data set)
    from dassl.config.node import Config
    from dassl.engine import build_trainer

    if work["threads"]:
        torch.set_num_threads(work["threads"])
    cfg = Config.load_cfg(Path(settings).read_text())
    cfg.freeze()
    _stand_in(cfg.MODEL.BACKBONE.NAME)
    module = importlib.import_module(f"trainers.{MODULES[work['trainer']]}")
    getattr(module, "CUSTOM_TEMPLATES", {})["Synthetic"] = TEMPLATE
    trainer = build_trainer(cfg)
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 10**9
    generator = torch.Generator().manual_seed(0)
    side = cfg.INPUT.SIZE[0]
    batch = {
        "img": torch.randn(work["batch"], 3, side, side, generator=generator),
        "label": torch.randint(0, work["classes"], (work["batch"],), generator=generator),
    }
    return trainer, batch


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
