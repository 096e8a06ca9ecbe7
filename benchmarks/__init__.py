"""Speed and memory, one command each: ``python -m benchmarks.smoe``."""
