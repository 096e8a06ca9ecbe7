"""Short scripts, one idea each."""
