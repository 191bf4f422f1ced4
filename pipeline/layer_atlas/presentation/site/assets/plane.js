// A plane that one moves over and comes closer to: what maps and enlarged images have in common.
"use strict";

// What can be seen: the centre in parts of the plane's side, and how many times larger it is than it
// has to be to fit its region into the frame.
//
// It adds `draw()`, `mostZoom`, `step(dx, dy)` for arrow keys, and may keep what is seen in `keep()`.
class Plane {
  constructor(words) {
    Object.assign(this, { x: 0.5, y: 0.5, zoom: 1, region: [0, 0, 1, 1] });
    this.ground = element("div.ground", {});
    this.frame = element("div.plane", { role: "group", "aria-label": words }, this.ground);
    this.pointers = new Map();
    this.onresize = () => this.draw();
  }

  listen() {
    addEventListener("resize", this.onresize);
    const { frame } = this;
    frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    frame.addEventListener("pointerdown", (event) => this.down(event));
    frame.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, (event) => this.up(event));
    frame.addEventListener("keydown", (event) => this.key(event));
    frame.addEventListener("dragstart", (event) => event.preventDefault());
  }

  stop() {
    removeEventListener("resize", this.onresize);
  }

  // --- geometry ---

  // Side of the whole plane in pixels.
  get side() {
    const [left, top, right, bottom] = this.region;
    const fitting = Math.min(this.frame.clientWidth / (right - left), this.frame.clientHeight / (bottom - top));
    return fitting * this.zoom;
  }

  // Where the plane's first corner is in the frame.
  get corner() {
    return [this.frame.clientWidth / 2 - this.x * this.side, this.frame.clientHeight / 2 - this.y * this.side];
  }

  hold() {
    this.zoom = Math.min(this.mostZoom, Math.max(1, this.zoom));
    const along = (at, length, from, to) => {
      const half = Math.min((to - from) / 2, length / this.side / 2);
      return Math.min(to - half, Math.max(from + half, at));
    };
    const [left, top, right, bottom] = this.region;
    this.x = along(this.x, this.frame.clientWidth, left, right);
    this.y = along(this.y, this.frame.clientHeight, top, bottom);
  }

  // --- what moves it ---

  // From the centre of the frame.
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
    const [left, top, right, bottom] = this.region;
    Object.assign(this, { x: (left + right) / 2, y: (top + bottom) / 2, zoom: 1 });
    this.moved();
  }

  moved() {
    this.draw();
    this.keep();
  }

  keep() {}

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
    const part = other ? 0.5 : 1; // of two fingers each moves the middle by half
    this.x -= (part * dx) / this.side;
    this.y -= (part * dy) / this.side;
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
}

// No new view: the address alone follows.
function keepAddress(place) {
  history.replaceState(null, "", route(place));
  now.address = location.hash;
}

// A map: a plane with the images of channels on it. The address keeps what can be seen, so that a view
// can be sent to somebody.
//
// A map adds `spots()`, which yields [row, x, y] of all that can have the focus, and `tell(row)`, which
// fills the panel.
class ChannelPlane extends Plane {
  constructor(layer, data, place, words) {
    super(words);
    Object.assign(this, { layer, data, place });
    const [x = 0.5, y = 0.5, zoom = 1] = (place.options.at || "").split(",").filter(Boolean).map(Number);
    Object.assign(this, { x, y, zoom: zoom >= 1 ? zoom : 1 });
    this.panel = element("aside.cellinfo", { "aria-label": "Chosen" });
    this.count = element("span.quiet", { role: "status" });
    this.made = new Map();
    this.focus = undefined;
    const asked = Number(place.options.chosen ?? NaN);
    this.chosen = data.channels.indexOf(asked);
    this.onprint = () => this.toPaper();
    this.onprinted = () => this.toScreen();
  }

  start(hint, open) {
    this.listen();
    addEventListener("beforeprint", this.onprint);
    addEventListener("afterprint", this.onprinted);
    this.frame.addEventListener("click", (event) => this.click(event));
    this.draw();
    if (this.chosen >= 0) this.tell(this.chosen, open);
    else this.panel.append(element("p.note.hint", {}, hint));
  }

  stop() {
    super.stop();
    removeEventListener("beforeprint", this.onprint);
    removeEventListener("afterprint", this.onprinted);
  }

  // A page is of another width than a window: what is seen is laid out for it, the whole map as a square.
  toPaper() {
    const { clientWidth, clientHeight } = this.frame;
    this.frame.style.setProperty("--tall", this.zoom > 1 ? clientHeight / clientWidth : 1);
    this.frame.classList.add("paper");
    this.draw();
  }

  toScreen() {
    this.frame.classList.remove("paper");
    this.draw();
  }

  get isOnPaper() {
    return this.frame.classList.contains("paper");
  }

  elementOf(row) {
    return this.made.get(row);
  }

  keepOnly(rows) {
    for (const [row, made] of this.made) {
      if (rows.has(row)) continue;
      made.remove();
      this.made.delete(row);
    }
  }

  // A link with the image of a row, which fills a part of it.
  link(row, words, fraction, label = "") {
    const { data, layer } = this;
    const made = element(
      "a.cell",
      {
        href: route({ ...this.place, channel: data.channels[row], options: {} }),
        "aria-label": words,
        "aria-current": row === this.chosen ? "true" : null,
        "data-row": row,
        "--fraction": fraction,
        title: words,
      },
      thumbnail(layer, data, row, {}),
      label ? element("span.label", { "aria-hidden": "true" }, label) : null,
    );
    this.ground.append(made);
    this.made.set(row, made);
    return made;
  }

  keep() {
    const at = [this.x, this.y, this.zoom].map((value) => Number(value.toFixed(4))).join(",");
    const chosen = this.chosen >= 0 ? String(this.data.channels[this.chosen]) : "";
    this.place.options = { ...this.place.options, at: at === "0.5,0.5,1" ? "" : at, chosen };
    keepAddress(this.place);
  }

  click(event) {
    const row = this.hit(event);
    if (this.dragged) event.preventDefault();
    if (row === undefined || this.dragged || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.choose(row);
  }

  // The row that a click means.
  hit(event) {
    const cell = event.target.closest(".cell");
    return cell ? Number(cell.dataset.row) : undefined;
  }

  // To the nearest in a direction: near its line before near.
  step(dx, dy) {
    let here;
    for (const spot of this.spots()) if (spot[0] === this.focus) here = spot;
    if (!here) return;
    let [best, least] = [null, Infinity];
    for (const [row, x, y] of this.spots()) {
      const ahead = (x - here[1]) * dx + (y - here[2]) * dy;
      const aside = Math.abs((x - here[1]) * dy) + Math.abs((y - here[2]) * dx);
      if (ahead > 1e-9 && ahead + 2 * aside < least) [best, least] = [row, ahead + 2 * aside];
    }
    if (best !== null) this.go(best);
  }

  first() {
    return this.focus;
  }

  // Give one the focus, and bring it into the frame.
  go(row) {
    this.focus = row;
    for (const [each, x, y] of this.spots()) if (each === row) this.reveal(x, y);
    this.moved();
    this.elementOf(row).focus({ preventScroll: true });
  }

  reveal(x, y) {
    const [width, height] = [this.frame.clientWidth / this.side, this.frame.clientHeight / this.side];
    if (Math.abs(x - this.x) > 0.45 * width) this.x = x;
    if (Math.abs(y - this.y) > 0.45 * height) this.y = y;
  }

  showChannel(channel) {
    const row = this.data.channels.indexOf(channel);
    if (row >= 0) this.go(row);
  }

  choose(row) {
    this.elementOf(this.chosen)?.removeAttribute("aria-current");
    Object.assign(this, { chosen: row, focus: row });
    this.moved();
    this.elementOf(row).setAttribute("aria-current", "true");
    this.elementOf(row).focus({ preventScroll: true });
    this.tell(row);
  }

  // The further data of a row.
  async block(row) {
    const number = Math.floor(row / this.data.perSheet);
    return layerAtlas.load(`${this.layer.folder}/channels-${number}`);
  }
}

// What comes closer and goes farther, for those without a wheel.
function zoomButtons(plane, what) {
  const button = (id, words, sign, act) =>
    element("button.plain", { type: "button", id, "aria-label": words, title: words, onclick: act }, sign);
  return [
    button("closer", "Closer (+)", "+", () => plane.zoomBy(1.6)),
    button("farther", "Farther (−)", "−", () => plane.zoomBy(1 / 1.6)),
    button("whole", `The whole ${what} (0)`, "⤢", () => plane.whole()),
  ];
}

function planeToolbar(plane, ...more) {
  const [before, after] = more;
  return element(
    "div.toolbar",
    { role: "group", "aria-label": "Map" },
    before,
    ...zoomButtons(plane, "map"),
    plane.count,
    after,
  );
}
