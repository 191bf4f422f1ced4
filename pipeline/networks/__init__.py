"""Vision models: made from a name, frozen, looked through for layers, and run on a device."""
