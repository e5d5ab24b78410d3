"""The embedded models: their data, their training and, in weights/, what came of it."""

import dmq_cli.compat  # noqa: F401
from dmq_cli.zoo.classifier import ClassifierTraining, save_classifier, train_classifier
from dmq_cli.zoo.digits import digit_images, split, to_float
from dmq_cli.zoo.memory import memorisation
from dmq_cli.zoo.unet import UNetTraining, train_unet

__all__ = [
    "ClassifierTraining",
    "UNetTraining",
    "digit_images",
    "memorisation",
    "save_classifier",
    "split",
    "to_float",
    "train_classifier",
    "train_unet",
]
