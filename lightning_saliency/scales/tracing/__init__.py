"""What happens in a pass: which modules run, what their tensors come from and which of them are maps."""
