"""From what is missing to who does it: stages, bundles, crews, and what becomes of them."""
