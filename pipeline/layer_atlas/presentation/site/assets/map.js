// The map of an activation atlas: its cells side by side, in a finer grid the closer one looks.
"use strict";

const LEAST_CELL = 72;
const MOST_CELL = 640;
const LABELLED = 84;

function mapView(view, place, { model, layer }, data) {
  const map = new CellMap(layer, data, place);
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
    mapToolbar(place, data, map),
    element("div.atlas", {}, map.frame, map.panel),
  );
  map.start();
  return map;
}

function mapToolbar(place, data, map) {
  const grids = data.map.grids.map(({ side }) => [String(side), `${side} × ${side}`]);
  const button = (id, words, sign, act) =>
    element("button.plain", { type: "button", id, "aria-label": words, title: words, onclick: act }, sign);
  return element(
    "div.toolbar",
    { role: "group", "aria-label": "Map" },
    grids.length > 1 ? choice("Cells", [["", "by zoom"], ...grids], place.options.grid || "", (side) => map.use(side)) : null,
    button("closer", "Closer (+)", "+", () => map.zoomBy(1.6)),
    button("farther", "Farther (−)", "−", () => map.zoomBy(1 / 1.6)),
    button("whole", "The whole map (0)", "⤢", () => map.whole()),
    map.count,
    element("a.switch", { href: route({ ...place, options: { view: "tiles" } }) }, "All cells as tiles"),
  );
}

// What can be seen of the map: its centre in parts of the map, and how many times larger than the
// frame it is. The address keeps both, so that a view can be sent to somebody.
class CellMap {
  constructor(layer, data, place) {
    Object.assign(this, { layer, data, place });
    const [x = 0.5, y = 0.5, zoom = 1] = (place.options.at || "").split(",").filter(Boolean).map(Number);
    Object.assign(this, { x, y, zoom: zoom >= 1 ? zoom : 1 });
    this.ground = element("div.ground", {});
    this.frame = element("div.plane", { role: "group", "aria-label": "Map of cells" }, this.ground);
    this.panel = element("aside.cellinfo", { "aria-label": "Cell" });
    this.count = element("span.quiet", { role: "status" });
    this.made = new Map();
    this.pointers = new Map();
    this.focus = null;
    this.chosen = Math.max(-1, data.channels.indexOf(Number(place.options.cell ?? NaN)));
    this.onresize = () => this.draw();
  }

  start() {
    addEventListener("resize", this.onresize);
    const { frame } = this;
    frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    frame.addEventListener("pointerdown", (event) => this.down(event));
    frame.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, (event) => this.up(event));
    frame.addEventListener("click", (event) => this.click(event));
    frame.addEventListener("keydown", (event) => this.key(event));
    frame.addEventListener("dragstart", (event) => event.preventDefault());
    this.draw();
    if (this.chosen >= 0) this.tell(this.chosen);
    else this.panel.append(element("p.note", {}, "Choose a cell to see what is in it."));
  }

  stop() {
    removeEventListener("resize", this.onresize);
  }

  // --- geometry ---

  // Side of the whole map in pixels.
  get side() {
    return Math.min(this.frame.clientWidth, this.frame.clientHeight) * this.zoom;
  }

  get grid() {
    const { grids } = this.data.map;
    const asked = grids.find(({ side }) => String(side) === this.place.options.grid);
    return asked || grids.findLast(({ side }) => this.side / side >= LEAST_CELL) || grids[0];
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

  hold() {
    this.zoom = Math.min(this.mostZoom, Math.max(1, this.zoom));
    const along = (at, length) => {
      const half = Math.min(0.5, length / this.side / 2);
      return Math.min(1 - half, Math.max(half, at));
    };
    this.x = along(this.x, this.frame.clientWidth);
    this.y = along(this.y, this.frame.clientHeight);
  }

  // --- drawing ---

  draw() {
    this.hold();
    const { side, frame, grid, places } = this;
    const cell = side / grid.side;
    const left = frame.clientWidth / 2 - this.x * side;
    const top = frame.clientHeight / 2 - this.y * side;
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
    for (const [row, made] of this.made) {
      if (!seen.has(row)) {
        made.remove();
        this.made.delete(row);
      }
    }
    for (const row of [...seen].sort((a, b) => places.get(a) - places.get(b))) {
      const made = this.made.get(row) || this.make(row, grid);
      const place = places.get(row);
      // Whole pixels: cells touch and none has a blurred edge.
      const x0 = Math.round(left + (place % grid.side) * cell);
      const y0 = Math.round(top + Math.floor(place / grid.side) * cell);
      const x1 = Math.round(left + ((place % grid.side) + 1) * cell);
      const y1 = Math.round(top + (Math.floor(place / grid.side) + 1) * cell);
      Object.assign(made.style, { left: `${x0}px`, top: `${y0}px`, width: `${x1 - x0}px`, height: `${y1 - y0}px` });
      made.classList.toggle("labelled", cell >= LABELLED);
      made.tabIndex = row === this.focus ? 0 : -1;
    }
    this.count.textContent = `${grid.side} × ${grid.side} cells, ${places.size.toLocaleString("en")} of them populated`;
  }

  make(row, grid) {
    const { data, layer } = this;
    const picture = thumbnail(layer, data, row, {});
    const label = data.map.label[row];
    const made = element(
      "a.cell",
      {
        href: route({ ...this.place, channel: data.channels[row], options: {} }),
        "aria-label": cellWords(data, row, grid),
        "aria-current": row === this.chosen ? "true" : null,
        "data-row": row,
        "--fraction": data.map.fraction[row],
        title: cellWords(data, row, grid),
      },
      picture,
      label ? element("span.label", { "aria-hidden": "true" }, label) : null,
    );
    this.ground.append(made);
    this.made.set(row, made);
    return made;
  }

  // --- what moves it ---

  at(event) {
    const box = this.frame.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  }

  // The point at [dx, dy] from the centre stays where it is.
  zoomBy(factor, [dx, dy] = [0, 0]) {
    const before = this.side;
    this.zoom = Math.min(this.mostZoom, Math.max(1, this.zoom * factor));
    const after = this.side;
    this.x += dx / before - dx / after;
    this.y += dy / before - dy / after;
    this.moved();
  }

  whole() {
    Object.assign(this, { x: 0.5, y: 0.5, zoom: 1 });
    this.moved();
  }

  use(side) {
    this.place.options = { ...this.place.options, grid: side };
    this.moved();
  }

  moved() {
    this.draw();
    this.keep();
  }

  keep() {
    const at = [this.x, this.y, this.zoom].map((value) => Number(value.toFixed(4))).join(",");
    const cell = this.chosen >= 0 ? String(this.data.channels[this.chosen]) : "";
    const options = { ...this.place.options, at: at === "0.5,0.5,1" ? "" : at, cell };
    this.place.options = options;
    // No new view: the address alone follows.
    history.replaceState(null, "", route(this.place));
    now.address = location.hash;
  }

  wheel(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 500)), this.at(event));
  }

  down(event) {
    if (event.button) return;
    this.pointers.set(event.pointerId, this.at(event));
    if (this.pointers.size === 1) this.dragged = false;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const after = this.at(event);
    const [dx, dy] = [after[0] - before[0], after[1] - before[1]];
    if (!this.dragged && this.pointers.size === 1 && Math.hypot(dx, dy) < 5) return;
    if (!this.dragged) this.frame.setPointerCapture(event.pointerId);
    this.dragged = true;
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, after);
    const share = other ? 0.5 : 1; // of two fingers each moves the middle by half
    this.x -= (share * dx) / this.side;
    this.y -= (share * dy) / this.side;
    if (other) {
      const apart = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
      const middle = [(after[0] + other[0]) / 2, (after[1] + other[1]) / 2];
      this.zoomBy(apart(after) / apart(before), middle);
    } else this.draw();
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.dragged) this.keep();
  }

  click(event) {
    const cell = event.target.closest(".cell");
    if (this.dragged) event.preventDefault();
    if (!cell || this.dragged || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.choose(Number(cell.dataset.row));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const zooms = { "+": 1.6, "=": 1.6, "-": 1 / 1.6 };
    if (event.key in steps) this.step(...steps[event.key]);
    else if (event.key in zooms) this.zoomBy(zooms[event.key]);
    else if (event.key === "0") this.whole();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // To the nearest populated cell in a direction: near its line before near.
  step(dx, dy) {
    const { grid } = this;
    const here = this.places.get(this.focus);
    const [x, y] = [here % grid.side, Math.floor(here / grid.side)];
    let [best, least] = [null, Infinity];
    grid.rows.forEach((row, place) => {
      const [right, down] = [(place % grid.side) - x, Math.floor(place / grid.side) - y];
      const ahead = right * dx + down * dy;
      const aside = Math.abs(right * dy) + Math.abs(down * dx);
      if (row < 0 || ahead <= 0 || ahead + 2 * aside >= least) return;
      [best, least] = [row, ahead + 2 * aside];
    });
    if (best !== null) this.go(best);
  }

  first() {
    return this.focus;
  }

  // Give a cell the focus, and bring it into the frame.
  go(row) {
    this.focus = row;
    const { grid } = this;
    const place = this.places.get(row);
    const [x, y] = [((place % grid.side) + 0.5) / grid.side, (Math.floor(place / grid.side) + 0.5) / grid.side];
    const [width, height] = [this.frame.clientWidth / this.side, this.frame.clientHeight / this.side];
    const room = 1 / grid.side / 2;
    if (Math.abs(x - this.x) > width / 2 - room) this.x = x;
    if (Math.abs(y - this.y) > height / 2 - room) this.y = y;
    this.moved();
    this.made.get(row).focus({ preventScroll: true });
  }

  showChannel(channel) {
    const row = this.data.channels.indexOf(channel);
    if (row < 0) return;
    if (!this.places.has(row)) {
      const grid = this.data.map.grids.find(({ rows }) => rows.includes(row));
      this.place.options = { ...this.place.options, grid: String(grid.side) };
    }
    this.go(row);
  }

  // --- what is in a cell ---

  choose(row) {
    this.made.get(this.chosen)?.removeAttribute("aria-current");
    this.chosen = row;
    this.focus = row;
    this.made.get(row)?.setAttribute("aria-current", "true");
    this.moved();
    this.made.get(row)?.focus({ preventScroll: true });
    this.tell(row);
  }

  async tell(row) {
    const { layer, data } = this;
    const number = Math.floor(row / data.perSheet);
    const block = await layerAtlas.load(`${layer.folder}/channels-${number}`);
    if (this.chosen !== row) return;
    const record = block.cell[row - block.first];
    const href = route({ ...this.place, channel: data.channels[row], options: {} });
    this.panel.replaceChildren(
      element("h2", {}, element("a", { href }, placeWords(record.row, record.column, record.grid))),
      thumbnail(layer, data, row, {}),
      ...cellSections(layer, data, row, record),
    );
  }
}

const placeWords = (row, column, side) => `Row ${row + 1}, column ${column + 1} of ${side} × ${side}`;

function cellWords(data, row, { side, rows }) {
  const place = rows.indexOf(row);
  const held = counted(data.map.count[row], "activation");
  const where = placeWords(Math.floor(place / side), place % side, side);
  return [where, held, data.map.label[row]].filter(Boolean).join(", ");
}

// The photographs, classes and channels of a cell.
function cellSections(layer, data, row, { classes, channels, samples }) {
  const source = layerAtlas.address(`${layer.folder}/samples-${row}.jpg`);
  const pictures = samples.map(({ slot, path }) => {
    const made = element("span.photograph", { role: "img", "aria-label": path, title: path });
    lay(made, [part(source, slot, data.map.across, data.map.across)]);
    return element("li", {}, made);
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
  ];
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
