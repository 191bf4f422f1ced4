"""The one layout model of montages, evidence sheets, animation strips, figures and the site.

1. A page has a size in dots and holds tiles, texts and lines, each at its place (`page`).
2. A dot is a pixel of a PNG or JPEG file, or 1/dpi inch of a figure; y runs downwards.
3. A `Tile` is an image in a box, as large as fits; without pixels it is an empty box.
4. A `Text` is one line in a box; it shrinks to its least size and is then cut short.
5. `Lines` are polylines: rules, brackets, dendrograms.
6. A planner turns counts, sizes and widths of texts into boxes, and draws nothing.
7. `Cells` is the grid of every planner: cells of one size in reading order (`grid`).
8. A `Font` measures texts; fitting, wrapping and shortening follow from widths alone (`text`).
9. A `Canvas` paints what is placed: Pillow (`pillow`) or matplotlib (`figure`).
10. Both canvases resample a tile by the same function, so an image looks alike everywhere.
"""
