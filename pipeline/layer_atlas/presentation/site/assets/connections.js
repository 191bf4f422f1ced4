// Weights between channels: the strongest inputs and outputs of a channel, with their kernels.
"use strict";

const LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-";
// Blue and orange, which the colour-blind distinguish, on dark and on light.
const EXCITES = [46, 116, 212];
const INHIBITS = [214, 113, 4];

function connections(model, layer, data, found) {
  if (!found) return [];
  const { excites, inhibits, outputs } = found;
  const inputs = [list(model, layer, "Excited by", excites), list(model, layer, "Inhibited by", inhibits)];
  const note = excites.length || inhibits.length ? element("p.note", {}, INPUTS_NOTE) : null;
  const made = [...inputs, note, refusals(model, data.refused)].filter(Boolean);
  const sections = made.length ? [section("Strongest inputs, by weight", ...made)] : [];
  if (outputs.length) {
    const shown = list(model, layer, "", outputs);
    sections.push(section("Strongest outputs, by weight", shown, element("p.note", {}, OUTPUTS_NOTE)));
  }
  return sections;
}

const INPUTS_NOTE =
  "Squares: weights by position (blue positive, orange negative). Numbers: their sum, and their share of the L1 norm of all inputs.";
const OUTPUTS_NOTE = "Channels among whose strongest inputs this one is.";

function list(model, layer, title, records) {
  if (!records.length) return null;
  const items = records.map((record) => element("li", {}, connected(model, layer, record)));
  const heading = title ? element("h3", {}, title) : null;
  return element("div", {}, heading, element("ul.connections", {}, ...items));
}

function connected(model, layer, [number, channel, weight, part, width, levels]) {
  const other = model.layers[number];
  const where = other.name === layer.name ? "" : `${other.title} `;
  const sum = `${weight < 0 ? "−" : "+"}${brief(Math.abs(weight))}`;
  const title = `${where}${channel}: weights that add up to ${sum}, ${share(part)} of all in absolute terms`;
  const content = [
    element("span.pair", {}, pictureOf(other, channel), kernel(width, levels)),
    element(
      "span.caption",
      {},
      element("span.label", {}, `${where}${channel}`),
      element("span.quiet", {}, `${sum} · ${share(part)}`),
    ),
  ];
  // A channel that the atlas has no image of has no page.
  if (!holds(other, channel)) return element("span.tile", { title }, ...content);
  const href = route({ model: model.name, layer: other.name, channel });
  return element("a.tile", { href, title }, ...content);
}

// The image of a channel of another layer, which comes when the data of that layer are there.
function pictureOf(layer, channel) {
  const made = element("span.picture", { "aria-hidden": "true", "--aspect": layer.image[0] / layer.image[1] });
  if (!holds(layer, channel)) {
    made.classList.add("empty");
    return made;
  }
  const fill = (data) => {
    const image = thumbnail(layer, data, data.channels.indexOf(channel), {});
    image.removeAttribute("role");
    image.removeAttribute("aria-label");
    image.setAttribute("aria-hidden", "true");
    made.replaceWith(image);
  };
  layerAtlas.load(`${layer.folder}/layer`).then(fill, () => made.classList.add("empty"));
  return made;
}

// A pixel for each weight, the stronger the less transparent.
function kernel(width, levels) {
  const height = levels.length / width;
  const made = element("canvas.kernel", { width, height, "aria-hidden": "true", "--aspect": width / height });
  const pen = made.getContext("2d");
  const pixels = pen.createImageData(width, height);
  const half = (LEVELS.length - 1) / 2;
  [...levels].forEach((sign, n) => {
    const level = LEVELS.indexOf(sign) - half;
    const colour = level < 0 ? INHIBITS : EXCITES;
    pixels.data.set([...colour, Math.round((255 * Math.abs(level)) / half)], 4 * n);
  });
  pen.putImageData(pixels, 0, 0);
  return made;
}

function refusals(model, refused) {
  const names = Object.keys(refused || {});
  if (!names.length) return null;
  const titles = new Map(model.layers.map(({ name, title }) => [name, title]));
  const words = names.map((name) => `${titles.get(name) ?? name} (${refused[name]})`).join(", ");
  return element("p.note", {}, `No weights from ${words}: they would depend on the image.`);
}
