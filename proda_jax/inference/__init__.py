"""A trained network, images and videos in, labels out."""
