"""Explainers of other libraries behind our own interface: captum, torchcam, PAIR saliency."""
