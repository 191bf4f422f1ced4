"""Montages, figures and the site: everything people look at, from the atlas and the store alone.

`layout` places tiles and texts and paints them; `montages`, `figures` and `site` choose the content.
"""
