"""References that images are measured against: statistics and features, read from files or built from images."""
