"""Watch, epoch by epoch and almost for free, where a vision network finds its information."""

__version__ = "0.1.0"
