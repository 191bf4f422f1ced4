"""Montages, figures and the site: everything people look at, from the atlas and the store alone.

`layout` places and paints tiles and texts; `montages`, `figures` and `site` choose the content.
"""
