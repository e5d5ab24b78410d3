"""Read images from folders and archives: list, order, decode and check them."""
