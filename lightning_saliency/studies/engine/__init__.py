"""Cells of a study: computed here, in processes or on Ray, each result kept in its own file."""
