"""What a user may ask for: records with a docstring per field, and Hydra at the door."""
