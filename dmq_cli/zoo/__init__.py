"""The embedded models: their data, their training and, in weights/, the trained models."""

from dmq_cli.zoo.autoencoder import AutoencoderTraining, train_autoencoder
from dmq_cli.zoo.classifier import ClassifierTraining, save_classifier, train_classifier
from dmq_cli.zoo.data import image_parts
from dmq_cli.zoo.digits import digit_images, split, to_float
from dmq_cli.zoo.fashion import fashion_images
from dmq_cli.zoo.latent import LatentTraining, train_latent
from dmq_cli.zoo.memory import memorisation
from dmq_cli.zoo.training import Training
from dmq_cli.zoo.unet import UNetTraining, train_unet

__all__ = [
    "AutoencoderTraining",
    "ClassifierTraining",
    "LatentTraining",
    "Training",
    "UNetTraining",
    "digit_images",
    "fashion_images",
    "image_parts",
    "memorisation",
    "save_classifier",
    "split",
    "to_float",
    "train_autoencoder",
    "train_classifier",
    "train_latent",
    "train_unet",
]
