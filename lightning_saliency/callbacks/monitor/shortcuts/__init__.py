"""Numbers of a run that tell of a shortcut, and the warning."""
