"""The feature extractor of the embedded protocol: a small CNN that reads 16x16 handwritten digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""The digits in the order of its logits, in the words of prompts."""


class DigitsCNN(nn.Module):
    """Digit images to bounded features and class logits.

    images: (B, 1, 16, 16) in [-1, 1]. Returns features (B, 64) in (-1, 1) and logits (B, 10). The features go through a
    batch normalisation without affine part and a tanh: every feature has the same weight in a Fréchet distance and none
    has heavy tails, which is what keeps the distance steady from one set of 2,000 images to the next.
    """

    side = 16
    num_features = 64
    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*self.stages(), nn.Flatten())
        self.drop = nn.Dropout(0.3)
        self.embed = nn.Linear(64 * 4 * 4, self.num_features)
        self.norm = nn.BatchNorm1d(self.num_features, affine=False)
        self.head = nn.Linear(self.num_features, self.num_classes)

    def stages(self) -> list[nn.Module]:
        """Make the layers from an image to (B, 64, 4, 4)."""
        return [
            *stage(1, 32),
            *stage(32, 32),
            nn.MaxPool2d(2),
            *stage(32, 64),
            nn.MaxPool2d(2),
            *stage(64, 64),
        ]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) in (-1, 1) and logits (B, classes) of images (B, 1, H, W) in [-1, 1]."""
        features = torch.tanh(self.norm(self.embed(self.drop(self.body(images)))))
        return features, self.head(features)


def stage(inputs: int, outputs: int) -> list[nn.Module]:
    """Make a 3x3 convolution with its normalisation and nonlinearity."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
