"""The files of a run on disk: written together, checked, read mapped. Knows no model."""
