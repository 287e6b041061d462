"""Every configuration key and its default.

Names and defaults are those of Dassl 0.6.3 as far as CoOp-family trainers use them; keys marked
"ours" are additions. A trainer adds its own node under TRAINER.
"""

from .node import Config as CN

_C = CN()
_C.VERSION = 1
_C.OUTPUT_DIR = "./output"  # log, checkpoints and results of the run
_C.RESUME = ""  # folder whose checkpoints a new run starts from
_C.SEED = -1  # negative: not seeded; zero and above: seeded
_C.USE_CUDA = True  # use the GPU if there is one
_C.VERBOSE = True

# How images are read. Which transforms exist, and their order: dassl/data/transforms/transforms.py.
_C.INPUT = CN()
_C.INPUT.SIZE = (224, 224)  # height, width
_C.INPUT.INTERPOLATION = "bilinear"  # bilinear, bicubic or nearest
_C.INPUT.TRANSFORMS = ()
_C.INPUT.NO_TRANSFORM = False  # hand out PIL images
_C.INPUT.PIXEL_MEAN = [0.485, 0.456, 0.406]
_C.INPUT.PIXEL_STD = [0.229, 0.224, 0.225]
_C.INPUT.CROP_PADDING = 4  # random_crop
_C.INPUT.RRCROP_SCALE = (0.08, 1.0)  # random_resized_crop: share of the image's area
_C.INPUT.CUTOUT_N = 1
_C.INPUT.CUTOUT_LEN = 16  # pixels
_C.INPUT.GN_MEAN = 0.0  # gaussian_noise
_C.INPUT.GN_STD = 0.15
_C.INPUT.RANDAUGMENT_N = 2  # operations per image
_C.INPUT.RANDAUGMENT_M = 10  # strength, 0 to 30
_C.INPUT.COLORJITTER_B = 0.4  # brightness
_C.INPUT.COLORJITTER_C = 0.4  # contrast
_C.INPUT.COLORJITTER_S = 0.4  # saturation
_C.INPUT.COLORJITTER_H = 0.1  # hue
_C.INPUT.RGS_P = 0.2  # randomgrayscale: probability
_C.INPUT.GB_P = 0.5  # gaussian_blur: probability
_C.INPUT.GB_K = 21  # gaussian_blur: kernel size in pixels, odd

_C.DATASET = CN()
_C.DATASET.ROOT = ""  # folder that holds all data sets
_C.DATASET.NAME = ""
_C.DATASET.SOURCE_DOMAINS = ()
_C.DATASET.TARGET_DOMAINS = ()
_C.DATASET.NUM_SHOTS = -1  # training images per class; below 1: all
_C.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base or new (in CoOp, train.py adds this key)

_C.DATALOADER = CN()
# Worker processes per loader; 0 reads images in the main process. More than there are cores or
# batches are not started. Workers cost a second or so to start: on a small data set with small
# images 0 is often faster.
_C.DATALOADER.NUM_WORKERS = 4
_C.DATALOADER.K_TRANSFORMS = 1  # views per training image
_C.DATALOADER.RETURN_IMG0 = False  # hand out the image without augmentation too, as img0
_C.DATALOADER.CACHE_IMAGES_MB = (
    256  # ours: memory for decoded training images, shared by the workers
)
_C.DATALOADER.TRAIN_X = CN()
_C.DATALOADER.TRAIN_X.SAMPLER = "RandomSampler"
_C.DATALOADER.TRAIN_X.BATCH_SIZE = 32
_C.DATALOADER.TRAIN_X.N_DOMAIN = 0  # RandomDomainSampler: domains per batch; 0: all
_C.DATALOADER.TRAIN_X.N_INS = 16  # RandomClassSampler: images per class and batch
_C.DATALOADER.TRAIN_U = CN()
_C.DATALOADER.TRAIN_U.SAME_AS_X = True  # use TRAIN_X's values for unlabelled images
_C.DATALOADER.TRAIN_U.SAMPLER = "RandomSampler"
_C.DATALOADER.TRAIN_U.BATCH_SIZE = 32
_C.DATALOADER.TRAIN_U.N_DOMAIN = 0
_C.DATALOADER.TRAIN_U.N_INS = 16
_C.DATALOADER.TEST = CN()
_C.DATALOADER.TEST.SAMPLER = "SequentialSampler"
_C.DATALOADER.TEST.BATCH_SIZE = 32

_C.MODEL = CN()
_C.MODEL.INIT_WEIGHTS = ""  # checkpoint whose fitting tensors start the training
_C.MODEL.BACKBONE = CN()
_C.MODEL.BACKBONE.NAME = ""
_C.MODEL.BACKBONE.PRETRAINED = True
# Ours: class texts that are encoded together; 0: all. Fewer need less memory, and in training a
# second forward pass.
_C.MODEL.CLASSES_AT_ONCE = 0
_C.MODEL.HEAD = CN()
_C.MODEL.HEAD.NAME = ""

# Ours: faster, but with other last digits than without; see docs/PERFORMANCE.md.
_C.INEXACT = CN()
_C.INEXACT.TF32 = False  # GPU: matrix products of fp32 numbers with 10 bits of mantissa
_C.INEXACT.COMPILE = ""  # torch.compile's mode: default, reduce-overhead (CUDA graphs), ...

_C.OPTIM = CN()
_C.OPTIM.NAME = "adam"  # adam, amsgrad, sgd, rmsprop, radam or adamw
_C.OPTIM.LR = 0.0003
_C.OPTIM.WEIGHT_DECAY = 5e-4
_C.OPTIM.MOMENTUM = 0.9  # sgd and rmsprop
_C.OPTIM.SGD_DAMPNING = 0
_C.OPTIM.SGD_NESTEROV = False
_C.OPTIM.RMSPROP_ALPHA = 0.99
_C.OPTIM.ADAM_BETA1 = 0.9  # every adam variant
_C.OPTIM.ADAM_BETA2 = 0.999
_C.OPTIM.STAGED_LR = False  # layers other than NEW_LAYERS learn at LR * BASE_LR_MULT
_C.OPTIM.NEW_LAYERS = ()
_C.OPTIM.BASE_LR_MULT = 0.1
_C.OPTIM.LR_SCHEDULER = "single_step"  # single_step, multi_step or cosine
_C.OPTIM.STEPSIZE = (-1,)  # epochs; single_step: below 1 means never within the training
_C.OPTIM.GAMMA = 0.1
_C.OPTIM.MAX_EPOCH = 10
_C.OPTIM.WARMUP_EPOCH = -1  # below 1: none
_C.OPTIM.WARMUP_TYPE = "linear"  # linear or constant
_C.OPTIM.WARMUP_CONS_LR = 1e-5  # constant
_C.OPTIM.WARMUP_MIN_LR = 1e-5  # linear: the first epoch's
_C.OPTIM.WARMUP_RECOUNT = (
    True  # the schedule after warm-up starts at its epoch 0, not at WARMUP_EPOCH
)

_C.TRAIN = CN()
_C.TRAIN.CHECKPOINT_FREQ = 0  # keep every so many epochs' checkpoint; 0: the last only
_C.TRAIN.PRINT_FREQ = 10  # batches
_C.TRAIN.COUNT_ITER = "train_x"

_C.TEST = CN()
_C.TEST.EVALUATOR = "Classification"
_C.TEST.PER_CLASS_RESULT = False  # print accuracy per class
_C.TEST.COMPUTE_CMAT = False  # write the confusion matrix to OUTPUT_DIR/cmat.pt
_C.TEST.NO_TEST = False
_C.TEST.SPLIT = "test"  # test or val, for the final test
# last_step, or best_val: validate after every epoch and test the best (on the test set if there is
# no val)
_C.TEST.FINAL_MODEL = "last_step"

_C.TRAINER = CN()
_C.TRAINER.NAME = ""
