"""Sheets of paper, measured in dots: pictures, letters, lines and trees."""
