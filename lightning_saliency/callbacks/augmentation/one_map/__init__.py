"""One map, or one place, for all images."""
