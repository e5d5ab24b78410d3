"""The feature extractor of the protocol of ddim_fashion: digits_cnn for images of 32x32."""

from __future__ import annotations

from torch import nn

from dmq_cli.models.digits_cnn import DigitsCNN, stage


class FashionCNN(DigitsCNN):
    """Images of clothes to bounded features and class logits: as DigitsCNN, of (B, 1, 32, 32) in [-1, 1]."""

    side = 32

    def stages(self) -> list[nn.Module]:
        """Make the layers from an image to (B, 64, 4, 4)."""
        return [
            *stage(1, 16),
            nn.MaxPool2d(2),
            *stage(16, 32),
            nn.MaxPool2d(2),
            *stage(32, 64),
            nn.MaxPool2d(2),
            *stage(64, 64),
        ]
