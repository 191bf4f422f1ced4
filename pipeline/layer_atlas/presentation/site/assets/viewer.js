// Images in large: to come closer to, to save, and to send to somebody by their address.
"use strict";

const MOST_MAGNIFIED = 48; // screen pixels per pixel of an image
const SQUARE = 8; // from here on what is enlarged shows its pixels as squares
const VEIL = 0.82; // of black over what does not activate

// An image, or a region of it, that fills its frame; what is laid over it covers it exactly.
class ImagePlane extends Plane {
  constructor(step) {
    super("Image");
    this.frame.tabIndex = 0;
    this.beyond = step;
    this.box = element("span.box", { hidden: true });
    this.layers = [];
    this.size = [1, 1];
  }

  get longer() {
    return Math.max(...this.size);
  }

  get mostZoom() {
    return Math.max(1, (MOST_MAGNIFIED * this.longer * this.zoom) / this.side);
  }

  // Sizes in pixels of the image: left, top, right, bottom.
  show(size, layers, box, cropped) {
    Object.assign(this, { size, layers, cropped: cropped ? box : null });
    this.region = (this.cropped || [0, 0, ...size]).map((edge) => edge / this.longer);
    this.box.hidden = !box || Boolean(cropped);
    if (box) this.framed = box;
    this.ground.replaceChildren(...layers, this.box);
    this.whole();
  }

  draw() {
    if (!this.frame.isConnected) return this.stop();
    this.hold();
    const scale = this.side / this.longer;
    const [x, y] = this.corner.map(Math.round);
    const [width, height] = this.size;
    const [left, top, right, bottom] = this.cropped || [0, 0, width, height];
    const inset = [top, width - right, height - bottom, left].map((edge) => `${edge * scale}px`).join(" ");
    for (const each of this.layers) {
      each.classList.toggle("squares", this.zoom > 1 && scale >= SQUARE);
      put(each, [x, y, x + width * scale, y + height * scale]);
      each.style.clipPath = this.cropped ? `inset(${inset})` : "";
    }
    if (!this.box.hidden) put(this.box, this.framed.map((edge, n) => [x, y][n % 2] + edge * scale));
    function put(each, [x0, y0, x1, y1]) {
      Object.assign(each.style, { left: `${x0}px`, top: `${y0}px`, width: `${x1 - x0}px`, height: `${y1 - y0}px` });
    }
  }

  // Arrows move what is larger than the frame, and else go to the next image.
  step(dx, dy) {
    if (this.zoom === 1) return this.beyond(dx);
    this.x += (dx * this.frame.clientWidth) / 4 / this.side;
    this.y += (dy * this.frame.clientHeight) / 4 / this.side;
    this.moved();
  }
}

// A dialog for some images. Each has an `id` for the address, `words` to be called by, `facts`, the
// `picture()` that shows it, its `size` in pixels if that is known, `source` and `name` of its file, a
// part of it as `box` that is `framed`, and `layers`: what can be laid over it, by name, as functions
// that return an element and a note.
class Viewer {
  constructor(place, items) {
    Object.assign(this, { place, items, openers: new Map(), turn: 0 });
    this.plane = new ImagePlane((dx) => this.next(dx));
    this.title = element("h2", { id: "viewer-title" });
    this.facts = element("p.quiet", {});
    this.note = element("p.note", { role: "status" });
    this.views = element("div.views", { role: "group", "aria-label": "View" });
    this.count = element("span.quiet", { role: "status" });
    this.save = element("span", {});
    const button = (id, words, sign, act) =>
      element("button.plain", { type: "button", id, "aria-label": words, title: words, onclick: act }, sign);
    const several = items.length > 1;
    this.dialog = element(
      "dialog.viewer",
      { "aria-labelledby": "viewer-title", tabindex: -1, onclose: () => this.closed() },
      element(
        "div.bar",
        {},
        element("div.called", {}, this.title, this.facts),
        this.views,
        element("div.tools", { role: "group", "aria-label": "Size" }, ...zoomButtons(this.plane, "image")),
        several ? button("before", "Previous image (Page Up)", "←", () => this.next(-1)) : null,
        several ? this.count : null,
        several ? button("after", "Next image (Page Down)", "→", () => this.next(1)) : null,
        this.save,
        button("close", "Close (Escape)", "×", () => this.dialog.close()),
      ),
      this.plane.frame,
      this.note,
    );
    this.plane.listen();
    this.dialog.addEventListener("keydown", (event) => this.key(event));
  }

  // A link that opens an image, and has the focus again when the dialog is closed.
  opener(id, attributes, ...children) {
    const act = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.open(id);
    };
    const made = element("a", { href: route({ ...this.place, open: id }), onclick: act, ...attributes }, ...children);
    this.openers.set(id, made);
    return made;
  }

  // An image by its id, and how it is seen: top1.crop.
  open(asked) {
    const dot = asked.lastIndexOf(".");
    const found = (id) => this.items.findIndex((each) => each.id === id);
    const [at, view] = found(asked) >= 0 ? [found(asked), ""] : [found(asked.slice(0, dot)), asked.slice(dot + 1)];
    if (at < 0) return;
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.focus();
    this.show(at, view);
  }

  next(by) {
    const to = this.at + by;
    if (by && this.items[to]) this.show(to, this.items[to].layers[this.view] ? this.view : "");
  }

  async show(at, asked) {
    const item = this.items[at];
    const view = item.layers[asked] ? asked : "";
    const turn = ++this.turn;
    Object.assign(this, { at, view });
    this.title.textContent = item.words;
    this.facts.textContent = item.facts;
    this.count.textContent = `${at + 1} of ${this.items.length}`;
    this.save.replaceChildren(item.source ? saveLink(item) : "");
    const names = Object.keys(item.layers);
    const tabs = names.length ? ["", ...names] : [];
    const tab = (name) =>
      element("button", { type: "button", "aria-pressed": String(name === view), onclick: () => this.show(at, name) }, name || "image");
    // The button that was pressed keeps the focus.
    const pressed = this.views.contains(document.activeElement);
    this.views.replaceChildren(...tabs.map(tab));
    if (pressed) this.views.querySelector("[aria-pressed=true]")?.focus();
    keepAddress({ ...this.place, open: view ? `${item.id}.${view}` : item.id });
    const picture = item.picture();
    const over = view ? item.layers[view]() : {};
    await Promise.all([picture.decode?.().catch(() => {}), over.ready]);
    if (turn !== this.turn) return;
    const size = item.size || [picture.naturalWidth || 1, picture.naturalHeight || 1];
    const box = partial(item.box, size);
    this.note.textContent = over.note?.(box, size) ?? (box ? `Frame: ${item.framed}.` : "");
    this.plane.show(size, [picture, over.element].filter(Boolean), box, view === "crop" && box);
    this.dialog.dataset.shown = `${item.id}.${view}`;
  }

  key(event) {
    const by = { PageUp: -1, PageDown: 1 }[event.key];
    if (!by) return this.plane.key(event);
    event.preventDefault();
    this.next(by);
  }

  closed() {
    keepAddress(this.place);
    delete this.dialog.dataset.shown;
    const [first] = this.openers.values();
    (this.openers.get(this.items[this.at]?.id) || first)?.focus();
  }
}

// Browsers save no file for a page from disk: they open it beside the page, under its name.
function saveLink({ source, name }) {
  const onDisk = { target: "_blank", rel: "noopener", title: "Opens the file, to be saved" };
  const how = location.protocol === "file:" ? onDisk : { download: name };
  return element("a.button", { id: "save", href: source, ...how }, "Save");
}

// A box that is part of an image; null for all of it.
function partial(box, [width, height]) {
  if (!box) return null;
  const [left, top, right, bottom] = box;
  const inside = left >= 0 && top >= 0 && right <= width && bottom <= height && left < right && top < bottom;
  return inside && (right - left < width || bottom - top < height) ? box : null;
}

// --- what there is of a channel -------------------------------------------------------------------

function imageItem(layer, data, row, seed, variant) {
  const options = { seed: String(data.seeds[seed]), variant: data.variants[variant] };
  const word = fate(data, row, options);
  const name = imageName(data, row, seed, variant);
  const source = name && layerAtlas.address(`${layer.folder}/${name}`);
  const set = called(data, seed, variant);
  const words = [data.labels[row], set, word === "ok" ? "" : word].filter(Boolean).join(", ");
  return {
    id: [`seed${data.seeds[seed]}`, ...(variant ? [data.variants[variant]] : [])].join("-"),
    words: `${layer.title} ${words}`,
    facts: [pixels(data.image), name && (name.endsWith(".png") ? "PNG, as in the atlas" : "JPEG")].filter(Boolean).join(" · "),
    picture: () =>
      source ? element("img", { src: source, alt: `Feature visualization of ${layer.title} ${words}` }) : thumbnail(layer, data, row, options),
    size: source ? null : data.image,
    source,
    name,
    layers: {},
  };
}

// The file of an image, as the maker of the site names it; null where there is none.
function imageName(data, row, seed, variant) {
  if (!data.files) return null;
  const { stem, suffix, variants } = data.files;
  const parts = [stem, data.channels[row], `seed${data.seeds[seed]}`, ...variants.slice(variant, variant + 1)];
  return `${parts.join("-")}.${suffix}`;
}

function photographItem(layer, data, row, end, record, rank) {
  const { slot, path, file, score, salient, box } = record;
  const ends = { top: "strongest", bottom: "weakest" };
  const layers = {};
  if (box) layers.crop = () => ({ note: cropNote("its largest response") });
  if (end === "top" && data.photographs.map.length) layers.activation = () => activationLayer(layer, data, row, slot);
  if (salient) layers.saliency = () => saliencyLayer(layer, data, row, slot);
  return {
    id: `${end}${rank + 1}`,
    words: `${layer.title} ${data.labels[row]}: ${ends[end]} photograph ${rank + 1}`,
    facts: [score === null ? "" : `mean response ${brief(score)}`, path].filter(Boolean).join(" · "),
    picture: () => element("img", { src: layerAtlas.address(file), alt: path || `Photograph ${slot + 1}` }),
    source: layerAtlas.address(file),
    name: file.slice(file.indexOf("/") + 1),
    box,
    framed: "the receptive field of its largest response",
    layers,
  };
}

// Of what: its largest response.
const cropNote = (of) => (box, size) => {
  if (!box) return `The receptive field of ${of} is the whole image.`;
  const [left, top, right, bottom] = box;
  return `The receptive field of ${of}, ${pixels([right - left, bottom - top])} of ${pixels(size)}.`;
};

const sampleId = (rank) => `sample${rank + 1}`;

// The photographs of a cell of an activation atlas, each of which has one activation there.
const sampleItems = (layer, data, row, { samples }) =>
  samples.map((sample, rank) => sampleItem(layer, data, row, sample, rank));

// Framed is what the activation can depend on, or where that is all of the image, its position.
function sampleItem(layer, data, row, { path, file, at, box }, rank) {
  const { view, positions } = data.map;
  const field = partial(box, [view, view]);
  const [y, x] = at || [];
  const [height, width] = positions;
  const words = at ? `row ${y + 1}, column ${x + 1} of ${height} × ${width}` : "";
  const position = at && [x / width, y / height, (x + 1) / width, (y + 1) / height].map((edge) => edge * view);
  const whole = "what it depends on is the whole image";
  return {
    id: sampleId(rank),
    words: `${layer.title} ${data.labels[row]}: photograph ${rank + 1}`,
    facts: [words && `activation at ${words}`, path].filter(Boolean).join(" · "),
    picture: () => element("img", { src: layerAtlas.address(file), alt: path }),
    size: view ? [view, view] : null,
    source: layerAtlas.address(file),
    name: file.slice(file.indexOf("/") + 1),
    box: field || position,
    framed: field ? "the receptive field of its activation" : `the position of its activation; ${whole}`,
    layers: field ? { crop: () => ({ note: cropNote("its activation") }) } : {},
  };
}

// Where the channel is active, the image is clear; elsewhere it is dark.
function activationLayer(layer, data, row, slot) {
  const [height, width] = data.photographs.map;
  const canvas = element("canvas.over", { width, height, "aria-hidden": "true" });
  let words = "No activation map of this image is in the atlas.";
  const fill = ({ first, bounds, maps }) => {
    const [low, high] = bounds[row - first]?.[slot] ?? [null, null];
    if (low === null || high === null) return;
    // Below 0 nothing goes on to the next layer, unless the channel is there everywhere.
    const from = high > 0 ? 0 : low;
    const levels = Uint8Array.from(atob(maps[row - first][slot]), (sign) => sign.charCodeAt(0));
    const drawing = canvas.getContext("2d");
    const veil = drawing.createImageData(width, height);
    levels.forEach((level, n) => {
      const value = low + (level / 255) * (high - low);
      const weight = high > from ? Math.max(0, (value - from) / (high - from)) : 1;
      veil.data.set([0, 0, 0, Math.round(255 * VEIL * (1 - weight))], 4 * n);
    });
    drawing.putImageData(veil, 0, 0);
    words = `Activation of the channel: from ${brief(from)} (dark) to ${brief(high)} (clear), on a map of ${width} × ${height}.`;
  };
  const ready = layerAtlas.load(`${layer.folder}/maps-${Math.floor(row / data.perSheet)}`).then(fill, () => {});
  return { element: canvas, ready, note: () => words };
}

function saliencyLayer(layer, data, row, slot) {
  const cover = element("span.over", { "aria-hidden": "true" });
  lay(cover, [saliencyPart(layer, data, row, slot)]);
  return { element: cover, note: () => "Clear: pixels that would change the response (saliency)." };
}

const saliencyPart = (layer, data, row, slot) => {
  const { salient } = data.photographs;
  return part(layerAtlas.address(`${layer.folder}/saliency-${row}.jpg`), slot, salient, salient);
};

// All images of a channel, in the order of its page.
function channelItems(layer, data, row, record, cell) {
  const items = [];
  data.seeds.forEach((number, seed) => {
    for (let variant = 0; variant < Math.max(1, data.variants.length); variant++) {
      const options = { seed: String(number), variant: data.variants[variant] };
      if (hasImage(fate(data, row, options))) items.push(imageItem(layer, data, row, seed, variant));
    }
  });
  if (cell) items.push(...sampleItems(layer, data, row, cell));
  for (const end of record ? ["top", "bottom"] : []) {
    (record[end] || []).forEach((each, rank) => items.push(photographItem(layer, data, row, end, each, rank)));
  }
  return items;
}
