"""Which runs the tests of the tools train, and where they lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "ZeroshotCLIP": "CoOp/vit_b16_ep50_ctxv1",
    "CoOp": "CoOp/vit_b16_ep50_ctxv1",
    "MaPLe": "MaPLe/vit_b16_c2_ep5_batch4_2ctx",
    "ANPrompt": "ANPrompt/vit_b16",
}
BASE = [
    "Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Highway or Road",
    "Industrial Buildings",
]  # fmt: skip
QUICK = [
    "OPTIM.MAX_EPOCH", "2", "DATALOADER.NUM_WORKERS", "0", "DATALOADER.TRAIN_X.BATCH_SIZE", "5",
    "DATASET.NUM_SHOTS", "1", "OPTIM.LR", "0.01", "TRAIN.PRINT_FREQ", "1",
]  # fmt: skip


def run_folder(output: Path, trainer: str, part: str = "train_base") -> Path:
    config = CONFIGS[trainer].split("/")[1]
    return output / f"base2new/{part}/eurosat/shots_1" / trainer / config / "seed1"
