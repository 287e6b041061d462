"""CoOp's two lists of prompts, under the module's and the lists' names that trainers of its family
import.
"""

from datasets.templates import IMAGENET_TEMPLATES, IMAGENET_TEMPLATES_SELECT

__all__ = ["IMAGENET_TEMPLATES", "IMAGENET_TEMPLATES_SELECT"]
