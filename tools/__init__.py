"""What makes the documentation's pictures and tables, and checks the project: run each as `python -m tools.<name>`."""
