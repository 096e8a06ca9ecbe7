"""Explainers compared on images, against boxes and against the network."""
