"""Vision models: loading, checks, introspection, activation capture and execution on a device."""
