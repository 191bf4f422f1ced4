"""Feature visualization: objectives, parameterizations, transforms, optimization; no files."""
