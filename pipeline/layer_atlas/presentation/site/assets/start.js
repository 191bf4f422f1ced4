// The frame of all views: address to view, crumbs, theme, keys.
"use strict";

const main = document.getElementById("main");
const THEMES = ["auto", "light", "dark"];

// Browsers may forbid pages from disk to remember anything.
function remembered(name) {
  try {
    return localStorage.getItem(`layer-atlas-${name}`);
  } catch {
    return null;
  }
}

// Whether it is remembered; else it holds until the page is closed.
function remember(name, value) {
  try {
    localStorage.setItem(`layer-atlas-${name}`, value);
    return true;
  } catch {
    return false;
  }
}

const now = { place: { options: {} }, target: null, wall: null, address: null, asked: 0, shown: 0 };
const search = new Search(() => now);
const help = helpDialog();

// --- theme ----------------------------------------------------------------------------------------

const themeButton = element("button.plain", { type: "button", id: "theme", onclick: () => turnTheme() });

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeButton.textContent = { auto: "◐", light: "○", dark: "●" }[theme];
  themeButton.setAttribute("aria-label", `Theme: ${theme}`);
  themeButton.title = `Theme: ${theme}`;
}

const theme = () => (THEMES.includes(remembered("theme")) ? remembered("theme") : "auto");

function turnTheme() {
  remember("theme", THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  showTheme(theme());
}

// --- views ----------------------------------------------------------------------------------------

async function show() {
  const turn = ++now.asked;
  now.address = location.hash;
  const place = parsed(now.address);
  const target = found(place);
  const before = now.place;
  now.wall?.stop();
  Object.assign(now, { place: place || { options: {} }, target, wall: null });
  const view = element("div.view", {});
  try {
    const [data, block] = await loaded(place, target);
    if (turn !== now.asked) return;
    main.replaceChildren(view);
    showCrumbs(now.place, target);
    fillView(view, place, target, data, block, before);
  } catch (error) {
    if (turn !== now.asked) return;
    main.replaceChildren(view);
    view.append(element("h1", {}, "Not there"), element("p.notice", {}, error.message));
  }
  now.shown = turn;
}

// The data that a view needs.
async function loaded(place, target) {
  if (isAbout(place, target)) return [await layerAtlas.load("about")];
  if (!target || !target.layer) return [];
  if (place.channel === undefined) sheets.expect(target.layer);
  const data = withNetworks(await layerAtlas.load(`${target.layer.folder}/layer`));
  if (place.channel === undefined) return [data];
  const row = data.channels.indexOf(place.channel);
  if (row < 0) return [data, null];
  const block = Math.floor(row / data.perSheet);
  return [data, await layerAtlas.load(`${target.layer.folder}/channels-${block}`)];
}

function fillView(view, place, target, data, block, before) {
  if (!target || block === null) nothing(view);
  else if (isAbout(place, target)) aboutView(view, data);
  else if (!target.layer) overview(view, place, target);
  else if (place.channel !== undefined) channelView(view, place, target, data, block);
  else if (data.map && place.options.view !== "tiles") now.wall = mapView(view, place, target, data);
  else if (data.points && place.options.view === "map") now.wall = pointsView(view, place, target, data);
  else now.wall = gridView(view, place, target, data);
  const heading = view.querySelector("h1").textContent;
  const { title } = layerAtlas.known("index");
  document.title = `${heading} · ${heading === title ? "Layer Atlas" : title}`;
  settle(place, before);
}

// Where the window and the focus are after a change of view.
function settle(place, before) {
  const same = before.model === place?.model && before.layer === place?.layer;
  if (same && before.channel !== undefined && before.channel === place.channel && refocus()) return;
  if (now.wall && same && before.channel === undefined && refocus()) return;
  if (now.wall && same && before.channel !== undefined) return now.wall.showChannel(before.channel);
  scrollTo(0, 0);
  if (now.wall && document.activeElement === document.body) return;
  main.focus({ preventScroll: true });
}

// The control that changed a view is made anew with it, and keeps the focus.
let control = "";
addEventListener("focusin", (event) => {
  if (event.target.closest(".toolbar, .ways")) control = event.target.id || event.target.getAttribute("aria-label");
  else control = "";
});

function refocus() {
  const controls = [...main.querySelectorAll(":is(.toolbar, .ways) :is([id], [aria-label])")];
  const again = controls.find((each) => control && (each.id || each.getAttribute("aria-label")) === control);
  again?.focus({ preventScroll: true });
  return Boolean(again);
}

const isAbout = (place, target) => Boolean(target && !target.model && place.options.view === "about");

function nothing(view) {
  view.append(
    element("h1", {}, "Not in this atlas"),
    element("p.notice", {}, "This address names nothing here. ", element("a", { href: "#/" }, "The atlas")),
  );
}

function showCrumbs(place, target) {
  const { title, models } = layerAtlas.known("index");
  const steps = [[title, "#/"]];
  if (target?.model && (models.length > 1 || target.model.name !== title)) {
    steps.push([target.model.name, route({ model: place.model })]);
  }
  if (target?.layer) {
    const { model, layer, options } = place;
    steps.push([target.layer.title, route({ model, layer, options })]);
    if (place.channel !== undefined) steps.push([String(place.channel), location.hash]);
  }
  if (isAbout(place, target)) steps.push(["About", location.hash]);
  const last = steps.length - 1;
  const links = steps.map(([words, href], n) =>
    element("li", {}, element("a", { href, "aria-current": n === last ? "page" : null }, words)),
  );
  document.getElementById("crumbs").replaceChildren(element("ol", {}, ...links));
}

// --- keys -----------------------------------------------------------------------------------------

function up() {
  const { model, layer, channel, options } = now.place;
  if (channel !== undefined) return route({ model, layer, options });
  const several = layerAtlas.known("index").models.length > 1;
  return layer !== undefined && several ? route({ model }) : "#/";
}

const ACTIONS = {
  "/": () => search.input.focus(),
  "?": () => help.showModal(),
  t: turnTheme,
  f: () => document.getElementById("favourite")?.click(),
  Escape: () => location.assign(up()),
  ArrowLeft: () => step("previous"),
  ArrowRight: () => step("next"),
};

// From channel to channel; in a grid, into it.
function step(id) {
  if (now.wall) now.wall.go(now.wall.first());
  else document.getElementById(id)?.click();
}

addEventListener("keydown", (event) => {
  const open = document.querySelector(":popover-open"); // Escape closes it, and no more
  const writing = open || event.target.closest("input, select, textarea, dialog");
  if (event.defaultPrevented || writing || event.ctrlKey || event.metaKey || event.altKey) return;
  const action = ACTIONS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// --- start ----------------------------------------------------------------------------------------

document.getElementById("tools").append(
  search.box,
  element("a.plain", { href: "#/?view=about", id: "about" }, "About"),
  themeButton,
  element("button.plain", { type: "button", id: "keys", "aria-label": "Keys", title: "Keys (?)", onclick: () => help.showModal() }, "?"),
);
document.body.append(help);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
showTheme(theme());
addEventListener("hashchange", show);
// By then its script has run.
addEventListener("DOMContentLoaded", () =>
  layerAtlas
    .load("index")
    .then(({ created }) => {
      const day = created.slice(0, 10);
      document.getElementById("foot").append(`Layer Atlas${day ? ` · collated ${day}` : ""}`);
      return show();
    })
    .catch((error) => main.append(element("p.notice", {}, error.message))),
);
