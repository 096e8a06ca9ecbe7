"""What is done with an image and its map: keep, hide, protect, swap, mix, or an action of one's own."""
