// Images, as parts of sheets of tiles, and what a tile says at a glance.
"use strict";

const sheets = (() => {
  const pictures = new Map();

  const series = (data, row, options) => `${seedOf(data, row, options)}-${variantOf(data, options)}`;

  function address(layer, data, row, options) {
    const number = Math.floor(row / data.perSheet);
    return layerAtlas.address(`${layer.folder}/tiles-${series(data, row, options)}-${number}.jpg`);
  }

  const preview = (layer, data, row, options) =>
    layerAtlas.address(`${layer.folder}/preview-${series(data, row, options)}.jpg`);

  // A picture that was asked for stays in memory, packed as it came.
  function ready(source) {
    if (!pictures.has(source)) {
      const picture = new Image();
      picture.decoding = "async";
      const wanted = { picture, there: false };
      wanted.ready = new Promise((done) => (picture.onload = picture.onerror = done)).then(
        () => (wanted.there = picture.naturalWidth > 0),
      );
      picture.src = source;
      pictures.set(source, wanted);
    }
    return pictures.get(source).ready;
  }

  const isThere = (source) => Boolean(pictures.get(source)?.there);

  // What a grid most likely begins with, while nothing is known of its layer but the folder.
  const expect = (layer) => ready(layerAtlas.address(`${layer.folder}/preview-0-0.jpg`));

  const sources = (layer, data, rows, options) => [
    ...new Set(rows.map((row) => address(layer, data, row, options))),
  ];

  const allReady = (layer, data, rows, options) =>
    Promise.all(sources(layer, data, rows, options).map(ready));

  // Sheets of the first rows, one after the other, while there is nothing else to do.
  function wantAll(layer, data, rows, options, goesOn) {
    const waiting = sources(layer, data, rows, options);
    const next = () => {
      const source = waiting.shift();
      if (source && goesOn()) ready(source).finally(() => soon(next));
    };
    soon(next);
  }

  const soon = (work) => (window.requestIdleCallback || window.setTimeout)(work);

  return { address, preview, expect, ready, isThere, allReady, wantAll };
})();

const hasImage = (word) => word !== "failed" && word !== "missing";

// The image of a channel, or the word for what became of it.
function thumbnail(layer, data, row, options) {
  const word = fate(data, row, options);
  const made = element("span.picture", {
    role: "img",
    "aria-label": `${data.labels[row]}${word === "ok" ? "" : `, ${word}`}`,
    "--aspect": data.image[0] / data.image[1],
  });
  if (word !== "ok") made.append(element("span.fate", { "aria-hidden": "true" }, word));
  if (hasImage(word)) showTile(made, layer, data, row, options);
  else made.classList.add("empty");
  return made;
}

// In small at once, and as it is as soon as its sheet is there: a browser shows nothing new while a
// picture that it knows of is not decoded.
function showTile(made, layer, data, row, options) {
  const source = sheets.address(layer, data, row, options);
  const preview = sheets.preview(layer, data, row, options);
  const first = Math.floor(row / data.perSheet) * data.perSheet;
  const count = Math.min(data.perSheet, data.channels.length - first);
  const tile = part(source, row - first, count, data.columns);
  if (sheets.isThere(source)) return lay(made, [tile]);
  const small = part(preview, row, data.channels.length, data.previewColumns);
  lay(made, [small]);
  Promise.all([sheets.ready(preview), sheets.ready(source)]).then(() => {
    if (sheets.isThere(source)) lay(made, [tile, small]);
  });
}

// One of so many tiles of a picture, as a background.
function part(source, place, count, columns) {
  const rows = Math.ceil(count / columns);
  return {
    image: `url("${source}")`,
    size: `${100 * columns}% ${100 * rows}%`,
    position: `${along(place % columns, columns)}% ${along(Math.floor(place / columns), rows)}%`,
  };
}

const along = (place, count) => (count > 1 ? (100 * place) / (count - 1) : 0);

function lay(made, backgrounds) {
  const all = (key) => backgrounds.map((each) => each[key]).join(", ");
  made.style.backgroundImage = all("image");
  made.style.backgroundSize = all("size");
  made.style.backgroundPosition = all("position");
}

// --- at a glance ----------------------------------------------------------------------------------

const GLANCED = ["activation", "agreement", "agreement_rank", "percentile", "recognisability", "selectivity"];
const GLANCE_AFTER = 350; // milliseconds
const LONG_TOUCH = 450;

// Beside a tile that is pointed at, has the focus or is touched for long: its numbers, and the
// photograph that excites it most.
class Glance {
  constructor(layer, data, place, list) {
    Object.assign(this, { layer, data, place, list });
    this.card = element("div.glance", { id: "glance", role: "tooltip", hidden: true });
    this.onaway = () => this.hide();
  }

  start() {
    const { list } = this;
    list.after(this.card);
    const tile = (event) => event.target.closest(".tile");
    const soon = (event, after) => tile(event) && tile(event) !== this.tile && this.later(tile(event), after);
    list.addEventListener("pointerover", (event) => event.pointerType === "mouse" && soon(event, GLANCE_AFTER));
    list.addEventListener("pointerout", (event) => {
      if (event.pointerType === "mouse" && !tile(event)?.contains(event.relatedTarget)) this.hide();
    });
    list.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && soon(event, GLANCE_AFTER));
    list.addEventListener("focusout", this.onaway);
    list.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.card.hidden) return;
      this.hide();
      event.stopPropagation();
    });
    // A long touch is no tap: it neither opens the link nor its menu.
    list.addEventListener("pointerdown", (event) => {
      this.held = false;
      this.touched = event.pointerType === "touch";
      if (this.touched) this.later(tile(event), LONG_TOUCH);
    });
    for (const end of ["pointerup", "pointercancel"]) list.addEventListener(end, () => clearTimeout(this.waiting));
    list.addEventListener("contextmenu", (event) => this.touched && event.preventDefault());
    list.addEventListener("click", (event) => {
      if (this.held) event.preventDefault();
      this.held = false;
    });
    addEventListener("scroll", this.onaway, { passive: true });
    addEventListener("pointerdown", this.onaway, { capture: true });
  }

  stop() {
    this.hide();
    removeEventListener("scroll", this.onaway);
    removeEventListener("pointerdown", this.onaway, { capture: true });
  }

  later(tile, after) {
    this.hide();
    if (!tile) return;
    this.tile = tile;
    this.waiting = setTimeout(() => this.show(tile), after);
  }

  hide() {
    clearTimeout(this.waiting);
    this.tile?.removeAttribute("aria-describedby");
    this.tile = null;
    this.card.hidden = true;
  }

  show(tile) {
    if (!tile.isConnected) return;
    this.held = this.touched;
    const row = Number(tile.dataset.row);
    this.card.replaceChildren(...this.words(row));
    this.card.hidden = false;
    tile.setAttribute("aria-describedby", "glance");
    beside(this.card, tile.getBoundingClientRect());
  }

  words(row) {
    const { data, place } = this;
    const word = fate(data, row, place.options);
    const wanted = [place.options.sort, ...GLANCED];
    const known = data.statistics.filter((each) => wanted.includes(each.name) && !isConstant(data, each));
    known.sort((a, b) => wanted.indexOf(a.name) - wanted.indexOf(b.name));
    const numbers = known.flatMap(({ name }) => [
      element("dt", {}, worded(name)),
      element("dd", {}, stated(name, column(data, name, place.options)[row])),
    ]);
    return [
      element(
        "div.facts",
        {},
        element("strong", {}, data.labels[row], word === "ok" ? "" : `, ${word}`),
        numbers.length ? element("dl", {}, ...numbers) : null,
      ),
      element("div.pictures", {}, this.network(row), data.photographs ? this.photograph(row) : null),
    ];
  }

  // The channel of another network that the layer is sorted by.
  network(row) {
    const found = sortedBy(this.layer, this.data, row, this.place.options.sort);
    if (!found) return null;
    return element("div.strongest", {}, found.picture(), element("span.quiet", {}, `${found.name} · ${found.words[0] ?? ""}`));
  }

  // Its place is kept until it is there, so that nothing moves.
  photograph(row) {
    const frame = element("span.photograph", {});
    const words = element("span.quiet", {}, "strongest photograph");
    layerAtlas.load(`${this.layer.folder}/channels-${Math.floor(row / this.data.perSheet)}`).then(
      ({ first, photographs }) => {
        const strongest = photographs[row - first]?.top?.[0];
        if (strongest) frame.append(element("img", { src: layerAtlas.address(strongest.file), alt: strongest.path }));
        else words.textContent = "no photograph";
      },
      () => {},
    );
    return element("div.strongest", {}, frame, words);
  }
}

// Put a box beside another in the window, where it covers nothing of it.
function beside(made, { left, top, right, bottom }) {
  const gap = 8;
  const { offsetWidth: width, offsetHeight: height } = made;
  const [wide, tall] = [document.documentElement.clientWidth, innerHeight];
  const within = (at, length, room) => Math.max(gap, Math.min(at, room - length - gap));
  const places = [
    [right + gap, within(top, height, tall), right + gap + width <= wide],
    [left - gap - width, within(top, height, tall), left - gap - width >= 0],
    [within(left, width, wide), bottom + gap, bottom + gap + height <= tall],
    [within(left, width, wide), top - gap - height, true],
  ];
  const [x, y] = places.find(([, , fits]) => fits);
  Object.assign(made.style, { left: `${x}px`, top: `${y}px` });
}
