"""How explainers run a network: its state put back, layers captured, its output made class scores."""
