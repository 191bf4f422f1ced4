// Images, as parts of sheets of tiles.
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
