"""What a user may ask for: one frozen record per setting, and Hydra at the door."""
