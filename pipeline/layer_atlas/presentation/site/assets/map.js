// The map of an activation atlas: its cells side by side, in a finer grid the closer one looks.
"use strict";

const LEAST_CELL = 72;
const MOST_CELL = 640;
const LABELLED = 84;
const LABELLED_ON_PAPER = 54;

function mapView(view, place, { model, layer }, data) {
  const { open } = place;
  delete place.open; // no other address of the page has it
  const map = new CellMap(layer, data, place);
  const grids = data.map.grids.map(({ side }) => [String(side), `${side} × ${side}`]);
  const shape = layer.shape.length ? `activations ${layer.shape.join(" × ")}` : "";
  const about = `one activation of each of ${data.map.photographs.toLocaleString("en")} photographs (${data.map.source})`;
  view.append(
    element(
      "div.heading",
      {},
      element("h1", { title: moduleName(layer) }, layer.title),
      element("p.facts", {}, [layer.type, shape, layer.recipe].filter(Boolean).join(" · ")),
      element("p.facts", {}, [`Activation atlas: ${about}`, model.about].filter(Boolean).join(" · ")),
    ),
    planeToolbar(
      map,
      grids.length > 1 ? choice("Cells", [["", "by zoom"], ...grids], place.options.grid || "", (side) => map.use(side)) : null,
      element("a.switch", { href: route({ ...place, options: { view: "tiles" } }) }, "All cells as tiles"),
    ),
    element("div.atlas", {}, map.frame, map.panel),
  );
  map.start("Choose a cell to see what is in it.", open);
  return map;
}

class CellMap extends ChannelPlane {
  constructor(layer, data, place) {
    super(layer, data, place, "Map of cells");
  }

  // On paper the grid that was on the screen, whatever the size of the page.
  get grid() {
    if (this.printed) return this.printed;
    const { grids } = this.data.map;
    const asked = grids.find(({ side }) => String(side) === this.place.options.grid);
    return asked || grids.findLast(({ side }) => this.side / side >= LEAST_CELL) || grids[0];
  }

  toPaper() {
    this.printed = this.grid;
    super.toPaper();
  }

  toScreen() {
    this.printed = null;
    super.toScreen();
  }

  // Where each row of the layer is in the grid.
  get places() {
    const { grid } = this;
    grid.places ||= new Map(grid.rows.map((row, place) => [row, place]).filter(([row]) => row >= 0));
    return grid.places;
  }

  get mostZoom() {
    const finest = this.data.map.grids.at(-1).side;
    return Math.max(1, (MOST_CELL * finest) / Math.max(1, this.side / this.zoom));
  }

  *spots() {
    const { side } = this.grid;
    for (const [row, place] of this.places) {
      yield [row, ((place % side) + 0.5) / side, (Math.floor(place / side) + 0.5) / side];
    }
  }

  draw() {
    this.hold();
    const { side, frame, grid, places, data } = this;
    const cell = side / grid.side;
    const [left, top] = this.corner;
    const span = (offset, length) => [
      Math.max(0, Math.floor(-offset / cell)),
      Math.min(grid.side, Math.ceil((length - offset) / cell)),
    ];
    const [fromX, toX] = span(left, frame.clientWidth);
    const [fromY, toY] = span(top, frame.clientHeight);
    const seen = new Set();
    for (let y = fromY; y < toY; y++) {
      for (let x = fromX; x < toX; x++) {
        const row = grid.rows[y * grid.side + x];
        if (row >= 0) seen.add(row);
      }
    }
    if (!places.has(this.focus)) this.focus = [...seen, ...places.keys()][0];
    if (this.focus !== undefined) seen.add(this.focus);
    this.keepOnly(seen);
    for (const row of [...seen].sort((a, b) => places.get(a) - places.get(b))) {
      const made = this.elementOf(row) || this.link(row, cellWords(data, row, grid), data.map.fraction[row], data.map.label[row]);
      const place = places.get(row);
      // Whole pixels: cells touch and none has a blurred edge.
      const x0 = Math.round(left + (place % grid.side) * cell);
      const y0 = Math.round(top + Math.floor(place / grid.side) * cell);
      const x1 = Math.round(left + ((place % grid.side) + 1) * cell);
      const y1 = Math.round(top + (Math.floor(place / grid.side) + 1) * cell);
      Object.assign(made.style, { left: `${x0}px`, top: `${y0}px`, width: `${x1 - x0}px`, height: `${y1 - y0}px` });
      made.classList.toggle("labelled", cell >= (this.isOnPaper ? LABELLED_ON_PAPER : LABELLED));
      made.tabIndex = row === this.focus ? 0 : -1;
    }
    this.count.textContent = `${grid.side} × ${grid.side} cells, ${places.size.toLocaleString("en")} of them populated`;
  }

  use(side) {
    this.place.options = { ...this.place.options, grid: side };
    this.moved();
  }

  // A cell of another grid brings its grid along.
  showChannel(channel) {
    const row = this.data.channels.indexOf(channel);
    const grid = this.data.map.grids.find(({ rows }) => rows.includes(row));
    if (grid && grid !== this.grid) this.place.options = { ...this.place.options, grid: String(grid.side) };
    super.showChannel(channel);
  }

  // --- what is in a cell ---

  async tell(row, open) {
    const { layer, data, place } = this;
    const block = await this.block(row);
    if (this.chosen !== row) return;
    const record = block.cell[row - block.first];
    const href = route({ ...place, channel: data.channels[row], options: {} });
    const viewer = new Viewer(place, sampleItems(layer, data, row, record));
    this.panel.replaceChildren(
      element("h2", {}, element("a", { href }, placeWords(record.row, record.column, record.grid))),
      thumbnail(layer, data, row, {}),
      ...cellSections(viewer, data, row, record),
      viewer.dialog,
    );
    if (open) viewer.open(open);
  }
}

// By the name that the cell has everywhere, and in words.
const placeWords = (row, column, side) =>
  `${side}:r${row}c${column}, row ${row} and column ${column} of ${side} × ${side}, from 0`;

function cellWords(data, row, { side, rows }) {
  const place = rows.indexOf(row);
  const held = counted(data.map.count[row], "activation");
  const where = placeWords(Math.floor(place / side), place % side, side);
  return [where, held, data.map.label[row]].filter(Boolean).join(", ");
}

// The photographs, classes and channels of a cell.
function cellSections(viewer, data, row, { classes, channels, samples }) {
  const pictures = samples.map(({ path, file }, rank) => {
    const image = element("img", { src: layerAtlas.address(file), alt: path, loading: "lazy" });
    return element("li", {}, viewer.opener(sampleId(rank), { class: "photograph", title: path }, image));
  });
  const count = data.map.count[row];
  const held = count === 1 ? "The activation of one photograph." : `Activations of ${counted(count, "photograph")}.`;
  const lines = (title, unit, entries) =>
    entries.length
      ? section(
          title,
          element("ol.bars", {}, ...entries.map(([name, value]) => bar(name, value, entries[0][1]))),
          element("p.note", {}, unit),
        )
      : null;
  return [
    section(
      pictures.length ? "Photographs closest to its mean" : "Photographs",
      pictures.length ? element("ul.photographs", {}, ...pictures) : null,
      element("p.note", {}, held),
    ),
    lines("Classes it supports", "Gradient of the class score times activation, mean over the cell.", classes),
    lines(
      "Strongest channels",
      "Mean activation in the cell.",
      channels.map(([channel, value]) => [`channel ${channel}`, value]),
    ),
  ].filter(Boolean);
}

function bar(name, value, most) {
  return element(
    "li",
    {},
    element("span.label", { title: name }, name),
    element("span.gauge", { "--part": Math.max(0, value / (most || 1)), "aria-hidden": "true" }),
    element("span.quiet", {}, brief(value)),
  );
}
