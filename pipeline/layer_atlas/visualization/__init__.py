"""Feature visualization: objectives, parameterizations, transforms. No files, no processes."""
