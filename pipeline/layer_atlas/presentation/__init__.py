"""What people look at: montages, figures, the site. Made from the atlas and the store alone."""
