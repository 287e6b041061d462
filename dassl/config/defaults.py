"""Every setting but those of methods and data sets: its default, its range, what it does.

Names and defaults are those of Dassl 0.6.3; settings marked "ours" are additions. A trainer
declares its own under TRAINER, a data set under DATASET. docs/SETTINGS.md is made from these
descriptions.
"""

from collections.abc import Mapping

from common.errors import UsageError
from common.settings import (
    Setting,
    check_settings,
    declare,
    declare_added,
    describe_as,
    described,
    leaves,
)

from .node import Config, Methods

OPTIMIZERS = ("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw")
SCHEDULES = ("single_step", "multi_step", "cosine")
WARMUPS = ("linear", "constant")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
TRANSFORMS = (
    "random_flip",
    "random_resized_crop",
    "normalize",
    "random_crop",
    "center_crop",  # without effect: test images are always centre-cropped
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
)
SAMPLERS = ("RandomSampler", "SequentialSampler")
COMPILE_MODES = (
    "",
    "default",
    "reduce-overhead",
    "max-autotune",
    "max-autotune-no-cudagraphs",
)
MAX_SEED = 2**32 - 1  # NumPy's
TRAIN, DATA, NEUTRAL = "training", "data", "neutral"


def _batches(name: str, scope: str) -> dict[str, Setting]:
    return {
        "SAMPLER": Setting("RandomSampler", f"order of {name}", choices=SAMPLERS, scope=scope),
        "BATCH_SIZE": Setting(32, f"{name} per batch", ge=1, le=65536, scope=scope),
        "N_DOMAIN": Setting(0, "domains per batch", scope="unused"),
        "N_INS": Setting(16, "images per class and batch", scope="unused"),
    }


TOP = {
    "VERSION": Setting(1, "of this list of settings", choices=(1,), scope=NEUTRAL),
    "OUTPUT_DIR": Setting("./output", "log, checkpoints and results of the run", scope=NEUTRAL),
    "RESUME": Setting("", "folder whose checkpoints a new run starts from", scope=NEUTRAL),
    "SEED": Setting(
        -1, "negative: not seeded; zero and above: seeded", ge=-MAX_SEED, le=MAX_SEED, scope=TRAIN
    ),
    "USE_CUDA": Setting(True, "use the GPU if there is one", scope=NEUTRAL),
    "VERBOSE": Setting(True, "print more", scope=NEUTRAL),
}

INPUT = {
    "SIZE": Setting((224, 224), "height and width of an image in pixels", ge=1, le=4096, length=2),
    "INTERPOLATION": Setting("bilinear", "how images are resized", choices=INTERPOLATIONS),
    "TRANSFORMS": Setting(
        (),
        "augmentation of training images, and normalize for all",
        kind=str,
        choices=TRANSFORMS,
        length=(0, len(TRANSFORMS)),
    ),
    "NO_TRANSFORM": Setting(False, "hand out PIL images"),
    "PIXEL_MEAN": Setting(
        [0.485, 0.456, 0.406],
        "normalize: mean of red, green and blue, where white is 1",
        ge=0,
        le=1,
        length=3,
    ),
    "PIXEL_STD": Setting(
        [0.229, 0.224, 0.225],
        "normalize: standard deviation of red, green and blue, where white is 1",
        ge=0.001,
        le=1000,
        length=3,
    ),
    "CROP_PADDING": Setting(4, "random_crop: pixels", ge=0, le=4096, scope=TRAIN),
    "RRCROP_SCALE": Setting(
        (0.08, 1.0),
        "random_resized_crop: smallest and largest share of the image's area",
        gt=0,
        le=1,
        length=2,
        order="increasing",
        scope=TRAIN,
    ),
    "CUTOUT_N": Setting(1, "cutout: squares per image", scope="unused"),
    "CUTOUT_LEN": Setting(16, "cutout: side of a square in pixels", scope="unused"),
    "GN_MEAN": Setting(0.0, "gaussian_noise: mean", scope="unused"),
    "GN_STD": Setting(0.15, "gaussian_noise: standard deviation", scope="unused"),
    "RANDAUGMENT_N": Setting(2, "randaugment: operations per image", scope="unused"),
    "RANDAUGMENT_M": Setting(10, "randaugment: strength", scope="unused"),
    "COLORJITTER_B": Setting(0.4, "colorjitter: brightness", ge=0, le=10, scope=TRAIN),
    "COLORJITTER_C": Setting(0.4, "colorjitter: contrast", ge=0, le=10, scope=TRAIN),
    "COLORJITTER_S": Setting(0.4, "colorjitter: saturation", ge=0, le=10, scope=TRAIN),
    "COLORJITTER_H": Setting(0.1, "colorjitter: hue", ge=0, le=0.5, scope=TRAIN),
    "RGS_P": Setting(0.2, "randomgrayscale: probability", ge=0, le=1, scope=TRAIN),
    "GB_P": Setting(0.5, "gaussian_blur: probability", ge=0, le=1, scope=TRAIN),
    "GB_K": Setting(21, "gaussian_blur: kernel size in pixels, odd", ge=1, le=4095, scope=TRAIN),
}

DATASET = {
    "ROOT": Setting("", "folder that holds all data sets", scope=NEUTRAL),
    "NAME": Setting("", "registered name of the data set", scope=DATA),
    "SOURCE_DOMAINS": Setting((), "domains to train on, where there are any", kind=str, scope=DATA),
    "TARGET_DOMAINS": Setting((), "domains to test on, where there are any", kind=str, scope=DATA),
    "NUM_SHOTS": Setting(
        -1, "training images per class; below 1: all", ge=-1, le=10**6, scope=DATA
    ),
    "NUM_LABELED": Setting(-1, "labelled images, in semi-supervised learning", scope="unused"),
    "VAL_PERCENT": Setting(0.1, "share of validation images in such data sets", scope="unused"),
    "STL10_FOLD": Setting(-1, "fold of STL-10", scope="unused"),
    "CIFAR_C_TYPE": Setting("", "corruption of CIFAR-C", scope="unused"),
    "CIFAR_C_LEVEL": Setting(1, "its strength", scope="unused"),
    "ALL_AS_UNLABELED": Setting(False, "in semi-supervised learning", scope="unused"),
}

DATALOADER = {
    "NUM_WORKERS": Setting(
        4,
        "processes that read images, per loader; 0 reads in the main process, often faster on a "
        "small data set; more than there are cores or batches are not started",
        ge=0,
        le=1024,
        scope=NEUTRAL,
    ),
    "K_TRANSFORMS": Setting(1, "views per training image", ge=1, le=1000, scope=TRAIN),
    "RETURN_IMG0": Setting(False, "hand out the image without augmentation too", scope="unused"),
    "CACHE_IMAGES_MB": Setting(
        256,
        "ours: memory for decoded training images, shared by the workers",
        ge=0,
        le=2**30,
        scope=NEUTRAL,
    ),
    **{f"TRAIN_X.{key}": x for key, x in _batches("training images", TRAIN).items()},
    "TRAIN_U.SAME_AS_X": Setting(True, "TRAIN_X's values for unlabelled images", scope="unused"),
    **{f"TRAIN_U.{key}": x for key, x in _batches("unlabelled images", "unused").items()},
    "TEST.SAMPLER": Setting(
        "SequentialSampler", "order of test images", choices=SAMPLERS, scope=TRAIN
    ),
    "TEST.BATCH_SIZE": Setting(32, "test images per batch", ge=1, le=65536, scope=TRAIN),
}

MODEL = {
    "INIT_WEIGHTS": Setting("", "checkpoint whose fitting tensors start the training", scope=TRAIN),
    "BACKBONE.NAME": Setting(
        "", "name of the CLIP, or a checkpoint's path; README lists what may stand here"
    ),
    "BACKBONE.PRETRAINED": Setting(True, "prompt learners always start from CLIP", scope="unused"),
    "CLASSES_AT_ONCE": Setting(
        0,
        "ours: class texts that are encoded together; 0: all. Fewer need less memory and, in "
        "training, a second forward pass",
        ge=0,
        le=10**6,
        scope="inference",
    ),
    "HEAD.NAME": Setting("", "of Dassl's own classifiers", scope="unused"),
    "HEAD.HIDDEN_LAYERS": Setting((), "of that head: widths", kind=int, scope="unused"),
    "HEAD.ACTIVATION": Setting("relu", "of that head", scope="unused"),
    "HEAD.BN": Setting(True, "of that head: batch normalisation", scope="unused"),
    "HEAD.DROPOUT": Setting(0.0, "of that head: probability", scope="unused"),
}

# Faster, but with other last digits; see docs/PERFORMANCE.md.
INEXACT = {
    "TF32": Setting(
        False,
        "ours: on a GPU, multiply matrices of fp32 numbers with 10 bits of mantissa",
        scope="inference",
    ),
    "COMPILE": Setting(
        "",
        'ours: mode of torch.compile; "": not compiled',
        choices=COMPILE_MODES,
        scope="inference",
    ),
}

OPTIM = {
    "NAME": Setting("adam", "optimiser", choices=OPTIMIZERS, scope=TRAIN),
    "LR": Setting(0.0003, "learning rate", gt=0, le=100, scope=TRAIN),
    "WEIGHT_DECAY": Setting(5e-4, "weight decay", ge=0, le=10, scope=TRAIN),
    "MOMENTUM": Setting(0.9, "sgd, rmsprop: momentum", ge=0, lt=1, scope=TRAIN),
    "SGD_DAMPNING": Setting(0, "sgd: dampening of momentum", kind=float, ge=0, le=1, scope=TRAIN),
    "SGD_NESTEROV": Setting(False, "sgd: Nesterov's momentum", scope=TRAIN),
    "RMSPROP_ALPHA": Setting(0.99, "rmsprop: smoothing", ge=0, lt=1, scope=TRAIN),
    "ADAM_BETA1": Setting(0.9, "adam, amsgrad, radam, adamw: beta 1", ge=0, lt=1, scope=TRAIN),
    "ADAM_BETA2": Setting(0.999, "adam, amsgrad, radam, adamw: beta 2", ge=0, lt=1, scope=TRAIN),
    "STAGED_LR": Setting(
        False, "layers have no learning rates of their own here", choices=(False,), scope=TRAIN
    ),
    "NEW_LAYERS": Setting((), "of STAGED_LR: names of modules", kind=str, scope="unused"),
    "BASE_LR_MULT": Setting(0.1, "of STAGED_LR", scope="unused"),
    "LR_SCHEDULER": Setting("single_step", "schedule", choices=SCHEDULES, scope=TRAIN),
    "STEPSIZE": Setting(
        (-1,),
        "single_step: epochs between changes, below 1: none; multi_step: epochs of changes",
        ge=-1,
        le=10**6,
        length=(1, 100),
        order="increasing",
        scope=TRAIN,
    ),
    "GAMMA": Setting(0.1, "factor of a change", gt=0, le=1, scope=TRAIN),
    "MAX_EPOCH": Setting(10, "epochs of training", ge=1, le=10**6, scope=TRAIN),
    "WARMUP_EPOCH": Setting(
        -1, "epochs of warm-up, at most MAX_EPOCH; below 1: none", ge=-1, le=10**6, scope=TRAIN
    ),
    "WARMUP_TYPE": Setting("linear", "warm-up", choices=WARMUPS, scope=TRAIN),
    "WARMUP_CONS_LR": Setting(1e-5, "constant warm-up: its rate", ge=0, le=100, scope=TRAIN),
    "WARMUP_MIN_LR": Setting(
        1e-5, "linear warm-up: the first epoch's rate", ge=0, le=100, scope=TRAIN
    ),
    "WARMUP_RECOUNT": Setting(
        True,
        "the schedule after warm-up starts at its epoch 0, not at WARMUP_EPOCH",
        scope=TRAIN,
    ),
}

TRAINING = {
    "CHECKPOINT_FREQ": Setting(
        0, "keep every so many epochs' checkpoint; 0: the last only", ge=0, le=10**6, scope=NEUTRAL
    ),
    "PRINT_FREQ": Setting(10, "batches from line to line", ge=1, le=10**9, scope=NEUTRAL),
    "TRACK": Setting(
        "",
        "ours: tracker that scalars go to beside TensorBoard, if installed; offline by default",
        choices=("", "wandb", "mlflow"),
        scope=NEUTRAL,
    ),
    "COUNT_ITER": Setting("train_x", "loader that makes an epoch", scope="unused"),
}

TEST = {
    "EVALUATOR": Setting("Classification", "registered name of the evaluator", scope="inference"),
    "PER_CLASS_RESULT": Setting(False, "print accuracy per class", scope=DATA),
    "COMPUTE_CMAT": Setting(False, "write the confusion matrix to OUTPUT_DIR/cmat.pt", scope=DATA),
    "SAVE_PREDICTIONS": Setting(
        True,
        "ours: keep the answers for every test image in OUTPUT_DIR/predictions.npz (some 50 bytes "
        "an image and rule, and 2 more a class where images times classes are at most 2,000,000)",
        scope=NEUTRAL,
    ),
    "KEEP_FEATURES": Setting(
        True,
        "ours: keep frozen CLIP's image features on disk (python -m anprompt cache) and use those "
        "that are there, where a method leaves the image tower as it is; same results bit for bit",
        scope=NEUTRAL,
    ),
    "NO_TEST": Setting(False, "do not test after training", scope=TRAIN),
    "SPLIT": Setting("test", "images of the final test", choices=("test", "val"), scope=DATA),
    "FINAL_MODEL": Setting(
        "last_step",
        "model of the final test; best_val: validate after every epoch and test the best (on the "
        "test set if there is no val)",
        choices=("last_step", "best_val"),
        scope=TRAIN,
    ),
}

# KgCoOp's and ProGrad's train.py declare these.
LOSS = {
    "GM": Setting(False, "gradient matching, of ProGrad", scope="unused"),
    "NAME": Setting("", "of ProGrad's loss", scope="unused"),
    "ALPHA": Setting(0.0, "of ProGrad's loss", scope="unused"),
    "T": Setting(1.0, "of ProGrad's loss", scope="unused"),
    "LAMBDA": Setting(1.0, "of ProGrad's loss", scope="unused"),
}


def _make_defaults() -> Config:
    cfg = Config()
    nodes = {
        "": TOP,
        "INPUT": INPUT,
        "DATASET": DATASET,
        "DATALOADER": DATALOADER,
        "MODEL": MODEL,
        "INEXACT": INEXACT,
        "OPTIM": OPTIM,
        "TRAIN": TRAINING,
        "TEST": TEST,
        "LOSS": LOSS,
    }
    for name, settings in nodes.items():
        declare(cfg, name, settings)
    declare_added(cfg)
    cfg.TRAINER = Methods()
    declare(cfg, "TRAINER", {"NAME": Setting("", "registered name of the trainer", scope=DATA)})
    return cfg


_C = _make_defaults()
_DESCRIPTIONS = {name: described()[name] for name, _ in leaves(_C)}


def fresh_config() -> Config:
    """Return a copy of the default configuration, and describe its settings as they are here.

    A method may declare some of them anew, which lasts until the next configuration is made.
    """
    describe_as(_DESCRIPTIONS)
    return _C.clone()


def check_config(cfg: Mapping) -> None:
    """Refuse settings that are out of range, each by itself or together.

    Raises:
        UsageError: names them.
    """
    check_settings(cfg)
    optim = cfg["OPTIM"]
    if optim["WARMUP_EPOCH"] > optim["MAX_EPOCH"]:
        raise UsageError(
            f"OPTIM.WARMUP_EPOCH {optim['WARMUP_EPOCH']}: the whole training has "
            f"OPTIM.MAX_EPOCH {optim['MAX_EPOCH']} epochs"
        )
    if optim["SGD_NESTEROV"] and (not optim["MOMENTUM"] or optim["SGD_DAMPNING"]):
        raise UsageError(
            "OPTIM.SGD_NESTEROV True: it takes OPTIM.MOMENTUM above 0 and OPTIM.SGD_DAMPNING 0"
        )
