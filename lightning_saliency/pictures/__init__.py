"""Pictures: from tensors to images that a person sees, into files and loggers."""
