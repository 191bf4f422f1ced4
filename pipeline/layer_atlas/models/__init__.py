"""Vision models: loaded, checked, inspected, and run on a device up to a layer."""
