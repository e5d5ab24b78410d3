"""What an evaluation leaves: names of its files."""

INFLUENCE = "influence.safetensors"
"""The influence (N,) of every image on each distance, in the order of the seeds; on a mean over images, its own value."""
ASKED = "asked.json"
"""What each image was to show, where the model is told."""
