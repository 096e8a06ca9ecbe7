"""What is read of a batch for a frame: the maps of the sample, its labels and predictions."""
