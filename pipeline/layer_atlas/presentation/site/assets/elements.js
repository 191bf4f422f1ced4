// Elements, made without any markup in texts: whatever a name holds is shown as it is.
"use strict";

// element("a.tile", { href, "aria-label": text }, child, "text", ...)
function element(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) made.style.setProperty(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// For a tooltip: the module of a layer that readers know by another name.
function moduleName(layer) {
  return layer.title === layer.name ? null : layer.name;
}

function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A number in three digits: 0.0312, 14.1, 1,830, 3.40e+38. Whole numbers in full, but for those so large
// that a float32 has fewer digits than would be written.
function brief(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e7) return value.toLocaleString("en");
  if (size >= 1e5 || size < 1e-4) return value.toExponential(2);
  if (Math.round(size) >= 1000) return Math.round(value).toLocaleString("en");
  return value.toPrecision(3);
}

// Rounding makes neither nothing nor everything of a part.
function share(part) {
  if (part > 0 && part < 0.0005) return "<0.1 %";
  if (part < 1 && part > 0.9995) return ">99.9 %";
  return `${(100 * part).toFixed(1)} %`;
}

const pixels = ([width, height]) => `${width} × ${height} px`;

// `dataset/mean` and `activation_robust` in words.
function worded(name) {
  const ofNetwork = networkWords(name);
  if (ofNetwork) return ofNetwork;
  const words = name.replace(/_/g, " ").replace(/^words\/(\w+) /, "proposed label by $1 images: ");
  return words.startsWith("dataset/") ? `photographs: ${words.slice(8)}` : words;
}

const plural = (word) => (word.endsWith("s") ? `${word}es` : `${word}s`);
const counted = (n, word) => `${n.toLocaleString("en")} ${n === 1 ? word : plural(word)}`;

// What a layer's images are for, and of how many where that is known: 8 of 512 channels, 5 directions.
function amount(layer, shown = layer.channels) {
  if (layer.noun === "whole layer") return layer.noun;
  const all = layer.of ?? layer.channels;
  return shown < all ? `${shown.toLocaleString("en")} of ${counted(all, layer.noun)}` : counted(all, layer.noun);
}
