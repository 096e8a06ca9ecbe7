"""What the networks are trained with: arms by their names, and augmentations of a batch that need no map."""
