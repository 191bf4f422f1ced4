"""What a worker can be asked to do, a module each: its bundle as a record, and `run`."""
