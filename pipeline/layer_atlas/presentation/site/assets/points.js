// The similarity map of a layer: targets of similar response lie side by side.
"use strict";

const PART_OF_AREA = 0.5;
const SPRITE = 40;
const MOST_ELEMENTS = 400;
const SMALLEST_POINT = 6;
const LARGEST_POINT = 160;
const SHARP_ON_PAPER = 3; // dots for each pixel of the style sheet, of which 96 are an inch

const PROJECTIONS = { umap: "UMAP", tsne: "t-SNE", pca: "two principal components" };

function pointsView(view, place, { model, layer }, data) {
  const map = new PointMap(layer, data, place);
  const { projection } = data.points;
  const about = `${layer.noun === "channel" ? "Channels" : "Targets"} of similar response to the images side by side, by ${PROJECTIONS[projection]}`;
  view.append(
    element(
      "div.heading",
      {},
      element("h1", { title: moduleName(layer) }, layer.title),
      element("p.facts", {}, about),
      element("p.facts", {}, [layer.targets, model.about].filter(Boolean).join(" · ")),
    ),
    planeToolbar(map, null, element("a.switch", { href: route({ ...place, options: {} }) }, "All as tiles")),
    element("div.atlas", {}, map.frame, map.panel),
  );
  map.start(`Choose one to see it in large.`);
  return map;
}

// Rows without those that others cover, the last ones lying on top: of thousands few can be seen.
function onTop(rows, at, step) {
  const taken = new Set();
  const kept = [];
  for (let n = rows.length - 1; n >= 0; n--) {
    const [x, y] = at(rows[n]);
    const place = Math.floor(x / step) * 65536 + Math.floor(y / step);
    if (taken.has(place)) continue;
    taken.add(place);
    kept.push(rows[n]);
  }
  return kept.reverse();
}

// Far away, points are drawn on a canvas from the one picture that holds all images in small; close by
// each is an element with its tile.
class PointMap extends ChannelPlane {
  constructor(layer, data, place) {
    super(layer, data, place, `Map of ${plural(layer.noun)}`);
    const { x, y, steps } = data.points;
    this.rows = data.channels.map((_, row) => row).filter((row) => x[row] >= 0);
    this.xs = Float32Array.from(x, (value) => value / steps);
    this.ys = Float32Array.from(y, (value) => value / steps);
    this.focus = this.chosen >= 0 ? this.chosen : this.rows[0];
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.ground.before(this.canvas);
    this.small = new Image();
    this.small.onload = () => this.draw();
    if (this.rows.length) this.small.src = sheets.preview(layer, data, this.rows[0], {});
  }

  // Points grow more slowly than the map, so that close ones come apart.
  get size() {
    const alone = Math.sqrt(PART_OF_AREA / Math.max(1, this.rows.length));
    return Math.min(LARGEST_POINT, Math.max(SMALLEST_POINT, (alone * this.side) / Math.sqrt(this.zoom)));
  }

  get mostZoom() {
    return Math.max(4, Math.sqrt(this.rows.length));
  }

  *spots() {
    for (const row of this.rows) yield [row, this.xs[row], this.ys[row]];
  }

  draw() {
    this.hold();
    const { side, size, frame } = this;
    const [left, top] = this.corner;
    // A margin, so that points at the edge of the map are whole.
    const at = (row) => [
      size / 2 + left + this.xs[row] * (side - size),
      size / 2 + top + this.ys[row] * (side - size),
    ];
    const [right, bottom] = [frame.clientWidth + size, frame.clientHeight + size];
    const near = (x, y) => x > -size && y > -size && x < right && y < bottom;
    const seen = this.rows.filter((row) => near(...at(row)));
    const asElements = size >= SPRITE && seen.length <= MOST_ELEMENTS;
    this.paint(asElements ? [] : seen, at, size);
    const kept = new Set(asElements ? seen : []);
    if (this.focus !== undefined) kept.add(this.focus);
    if (this.chosen >= 0 && this.xs[this.chosen] >= 0) kept.add(this.chosen);
    this.keepOnly(kept);
    for (const row of kept) {
      const made = this.elementOf(row) || this.link(row, this.data.labels[row], 1);
      const [x, y] = at(row).map((middle) => Math.round(middle - size / 2));
      Object.assign(made.style, { left: `${x}px`, top: `${y}px`, width: `${size}px`, height: `${size}px` });
      made.tabIndex = row === this.focus ? 0 : -1;
    }
    this.count.textContent = counted(this.rows.length, this.layer.noun);
  }

  paint(rows, at, size) {
    const { canvas, small, data } = this;
    const sharp = this.isOnPaper ? SHARP_ON_PAPER : devicePixelRatio || 1;
    // No larger than what there is of the map: in a large window a canvas takes most of the memory.
    const [left, top, across, down] = rows.length ? this.visible() : [0, 0, 0, 0];
    Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${across}px`, height: `${down}px` });
    canvas.width = Math.round(across * sharp);
    canvas.height = Math.round(down * sharp);
    if (!rows.length || !small.complete || !small.naturalWidth) return;
    const context = canvas.getContext("2d");
    context.scale(sharp, sharp);
    context.translate(-left, -top);
    // Smoothing takes most of the time of thousands of images, and shows in none so small.
    context.imageSmoothingEnabled = size * sharp > 12;
    const columns = data.previewColumns;
    const lines = Math.ceil(data.channels.length / columns);
    const [width, height] = [small.naturalWidth / columns, small.naturalHeight / lines];
    for (const row of onTop(rows, at, (3 * size) / 4)) {
      const [x, y] = at(row);
      const from = [(row % columns) * width, Math.floor(row / columns) * height, width, height];
      context.drawImage(small, ...from, Math.round(x - size / 2), Math.round(y - size / 2), size, size);
    }
  }

  // The part of the map that lies in the frame: left, top, width and height.
  visible() {
    const lengths = [this.frame.clientWidth, this.frame.clientHeight];
    const from = this.corner.map((edge) => Math.max(0, Math.floor(edge)));
    const to = this.corner.map((edge, n) => Math.min(lengths[n], Math.ceil(edge + this.side)));
    return [...from, ...to.map((edge, n) => Math.max(0, edge - from[n]))];
  }

  hit(event) {
    const known = super.hit(event);
    if (known !== undefined) return known;
    const [dx, dy] = this.at(event);
    const [x, y] = [dx + this.frame.clientWidth / 2, dy + this.frame.clientHeight / 2];
    const { side, size } = this;
    const [left, top] = this.corner;
    let found;
    // The last one drawn lies on top.
    for (const row of this.rows) {
      const right = Math.abs(size / 2 + left + this.xs[row] * (side - size) - x) <= size / 2;
      if (right && Math.abs(size / 2 + top + this.ys[row] * (side - size) - y) <= size / 2) found = row;
    }
    return found;
  }

  async tell(row) {
    const { layer, data, place } = this;
    const block = await this.block(row);
    if (this.chosen !== row) return;
    const href = route({ ...place, channel: data.channels[row], options: {} });
    this.panel.replaceChildren(
      element("h2", {}, element("a", { href }, data.labels[row])),
      thumbnail(layer, data, row, {}),
      ...alike({ ...place, options: {} }, layer, data, block, row - block.first),
    );
  }
}
