// A layer: all its channels as tiles, of which only those near the window are elements.
"use strict";

const SMALLEST = 56;
const LARGEST = 320;

function gridView(view, place, { model, layer }, data) {
  const rows = ordered(data, place.options);
  const wall = new Wall(layer, data, rows, place);
  const few = rows.length < data.channels.length;
  const many = `${few ? `${rows.length.toLocaleString("en")} of ` : ""}${counted(data.channels.length, layer.noun)}`;
  const shape = layer.shape.length ? `activations ${layer.shape.join(" × ")}` : "";
  view.append(
    element(
      "div.heading",
      {},
      element("h1", { title: moduleName(layer) }, layer.title),
      element("p.facts", {}, [layer.type, shape, layer.recipe].filter(Boolean).join(" · ")),
      element("p.facts", {}, [layer.targets, model.about].filter(Boolean).join(" · ")),
    ),
    toolbar(place, layer, data, wall),
    ...meaningsOf(data, place.options),
    element("div.counts", {}, element("p.count", { role: "status" }, many), downloads(place, model, layer, data, rows)),
    rows.length ? wall.list : element("p.notice", {}, `No ${layer.noun} is like that.`),
  );
  wall.start();
  return wall;
}

const afterFrame = (work) => requestAnimationFrame(() => setTimeout(work));

class Wall {
  constructor(layer, data, rows, place) {
    Object.assign(this, { layer, data, rows, place });
    this.values = place.options.sort ? column(data, place.options.sort, place.options) : null;
    this.list = element("ul.wall", { "aria-label": "Channels" });
    this.glance = new Glance(layer, data, place, this.list);
    this.made = new Map();
    this.focus = 0;
    this.printing = false;
    this.onscroll = () => this.fill(innerHeight);
    this.onresize = () => this.measure();
    this.onprint = () => this.print(true);
    this.onprinted = () => this.print(false);
  }

  start() {
    addEventListener("scroll", this.onscroll, { passive: true });
    addEventListener("resize", this.onresize);
    addEventListener("beforeprint", this.onprint);
    addEventListener("afterprint", this.onprinted);
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.glance.start();
    this.measure();
    const there = () => this.list.isConnected;
    sheets.wantAll(this.layer, this.data, this.rows, this.place.options, there);
  }

  stop() {
    removeEventListener("scroll", this.onscroll);
    removeEventListener("resize", this.onresize);
    removeEventListener("beforeprint", this.onprint);
    removeEventListener("afterprint", this.onprinted);
    this.glance.stop();
  }

  resize(wanted) {
    remember("tile", String(wanted));
    this.measure();
  }

  static wanted(width) {
    const asked = Number(remembered("tile"));
    if (asked) return Math.min(LARGEST, Math.max(SMALLEST, asked));
    return width < 480 ? width / 3.3 : width > 2400 ? 176 : 128;
  }

  measure() {
    const before = this.columns ? this.first() : null;
    const width = this.list.clientWidth;
    const letters = parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.gap = Math.round(letters * 0.5);
    this.columns = Math.max(1, Math.round((width + this.gap) / (Wall.wanted(width) + this.gap)));
    this.side = (width - this.gap * (this.columns - 1)) / this.columns;
    const [across, down] = this.data.tile;
    this.pictureHeight = (this.side * down) / across;
    this.step = this.pictureHeight + letters * 1.5 + this.gap;
    const lines = Math.ceil(this.rows.length / this.columns);
    this.list.style.height = `${lines * this.step}px`;
    for (const each of this.made.values()) each.remove();
    this.made.clear();
    if (before) this.show(before);
    this.fill(0);
    const shown = [...this.made.keys()].map((place) => this.rows[place]);
    sheets.allReady(this.layer, this.data, shown, this.place.options).then(() => afterFrame(this.onscroll));
  }

  // Paper has no window: a scroll or a resize on the way to the printer must not take tiles away.
  print(printing) {
    this.printing = printing;
    this.fill(innerHeight);
  }

  // The first channel in the window, by its place.
  first() {
    const above = -this.list.getBoundingClientRect().top;
    return above > 0 ? Math.floor(above / this.step) * this.columns : 0;
  }

  // Make the tiles in the window, and those in a margin above and below it; all of them for paper.
  fill(around) {
    const margin = this.printing ? Infinity : around;
    const top = -this.list.getBoundingClientRect().top;
    const from = Math.max(0, Math.floor((top - margin) / this.step)) * this.columns;
    const to = Math.min(
      this.rows.length,
      Math.ceil((top + innerHeight + margin) / this.step) * this.columns,
    );
    for (const [place, each] of this.made) {
      if ((place < from || place >= to) && place !== this.focus) {
        each.remove();
        this.made.delete(place);
      }
    }
    for (let place = from; place < to; place++) this.tile(place);
    if (this.rows.length) this.tile(this.focus);
  }

  tile(place) {
    if (this.made.has(place)) return this.made.get(place);
    const row = this.rows[place];
    const { data, layer } = this;
    const picture = thumbnail(layer, data, row, this.place.options);
    picture.style.height = `${this.pictureHeight}px`;
    const link = element(
      "a.tile",
      {
        href: route({ ...this.place, channel: data.channels[row] }),
        tabindex: place === this.focus ? "0" : "-1",
        "data-row": row,
      },
      picture,
      element(
        "span.caption",
        {},
        element("span.label", {}, data.labels[row]),
        noteMarks(data, row),
        this.values ? element("span.quiet", {}, this.value(row)) : null,
      ),
    );
    const made = element(
      "li",
      { "aria-setsize": this.rows.length, "aria-posinset": place + 1 },
      link,
    );
    made.style.width = `${this.side}px`;
    const x = (place % this.columns) * (this.side + this.gap);
    made.style.transform = `translate(${x}px, ${Math.floor(place / this.columns) * this.step}px)`;
    const next = [...this.made.keys()].filter((each) => each > place);
    const before = next.length ? this.made.get(Math.min(...next)) : null;
    this.list.insertBefore(made, before);
    this.made.set(place, made);
    return made;
  }

  // What the order is by: of best matches also which they are.
  value(row) {
    const found = this.values[row] === null ? null : sortedBy(this.layer, this.data, row, this.place.options.sort);
    return found?.caption ?? brief(this.values[row]);
  }

  key(event) {
    const page = Math.max(1, Math.floor(innerHeight / this.step) - 1) * this.columns;
    const steps = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: this.columns,
      ArrowUp: -this.columns,
      PageDown: page,
      PageUp: -page,
      Home: -Infinity,
      End: Infinity,
    };
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const last = this.rows.length - 1;
    this.go(Math.min(last, Math.max(0, this.focus + steps[event.key])));
  }

  // Give a place the focus, wherever it is.
  go(place) {
    this.made.get(this.focus)?.firstChild.setAttribute("tabindex", "-1");
    this.focus = place;
    this.show(place);
    this.fill(innerHeight);
    const link = this.tile(place).firstChild;
    link.setAttribute("tabindex", "0");
    link.focus({ preventScroll: true });
  }

  show(place) {
    const line = Math.floor(place / this.columns) * this.step;
    const top = this.list.getBoundingClientRect().top + line;
    const bar = document.querySelector(".bar").offsetHeight + this.gap;
    if (top < bar) scrollBy(0, top - bar);
    else if (top + this.step > innerHeight) scrollBy(0, top + this.step - innerHeight + this.gap);
  }

  showChannel(channel) {
    const place = this.rows.findIndex((row) => this.data.channels[row] === channel);
    if (place >= 0) this.go(place);
  }
}

// --- what the grid can be told --------------------------------------------------------------------

function toolbar(place, layer, data, wall) {
  const { options } = place;
  const go = (changes) => location.assign(route({ ...place, options: { ...options, ...changes } }));
  const noted = notes.here(data);
  const pick = (label, key, entries) =>
    choice(label, entries, options[key] || "", (value) => go({ [key]: value }));
  const words = [...new Set(data.status)].sort();
  return element(
    "div.toolbar",
    { role: "group", "aria-label": "Order and filters" },
    pick("Sort", "sort", [["", layer.noun], ...statisticEntries(data, options.sort)]),
    element(
      "button.plain",
      {
        type: "button",
        id: "direction",
        onclick: () => go({ up: options.up ? "" : "1" }),
        "aria-label": upwards(options) ? "Smallest first" : "Largest first",
        title: upwards(options) ? "Smallest first" : "Largest first",
      },
      upwards(options) ? "↑" : "↓",
    ),
    data.seeds.length > 1
      ? pick("Seed", "seed", [["", data.leads], ...data.seeds.map((seed) => [String(seed), String(seed)])])
      : null,
    data.variants.length > 1
      ? pick("Variant", "variant", data.variants.map((name, n) => [n ? name : "", name]))
      : null,
    words.length > 1 ? pick("Status", "fate", [["", "all"], ...words.map((word) => [word, word])]) : null,
    noted.length || options.mark ? pick("Notes", "mark", markEntries(noted)) : null,
    ...filters(options).map((filter, n) => filterBox(filter, n, data, options, go)),
    choice(
      "Filter",
      [["", "add …"], ...statisticEntries(data)],
      "",
      (name) => go({ where: written([...filters(options), { name, least: "", most: "" }]) }),
    ),
    data.map || data.points
      ? element("a.switch", { href: route({ ...place, options: data.map ? {} : { view: "map" } }) }, "Map")
      : null,
    size(wall),
  );
}

// Channels go up by their numbers, and down by what they score, unless told.
const upwards = (options) => (options.sort ? Boolean(options.up) : !options.up);

const markEntries = (noted) => [
  ["", "all"],
  ["favourite", "favourites"],
  ["note", "with a note"],
  ...notes.tags(noted).map((tag) => [`tag:${tag}`, `tag ${tag}`]),
];

function choice(label, entries, chosen, act) {
  const select = element(
    "select",
    { onchange: () => act(select.value), id: `choose-${label.toLowerCase()}` },
    ...entries.map(([value, words]) => element("option", { value, selected: value === chosen }, words)),
  );
  return element("label.choice", {}, element("span.quiet", {}, label), select);
}

function size(wall) {
  const slider = element("input", {
    type: "range",
    id: "size",
    min: SMALLEST,
    max: LARGEST,
    step: 8,
    value: Math.round(Wall.wanted(innerWidth)),
    oninput: () => wall.resize(Number(slider.value)),
  });
  return element("label.choice.size", {}, element("span.quiet", {}, "Size"), slider);
}
