"""Cells of a study: computed here, in processes or on Ray, each result kept in a file of its own."""
