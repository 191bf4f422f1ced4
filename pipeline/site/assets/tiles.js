// Images, as parts of sheets of tiles.
"use strict";

const sheets = (() => {
  const pictures = new Map();

  function address(layer, data, row, options) {
    const seed = seedOf(data, row, options);
    const number = Math.floor(row / data.perSheet);
    return layerAtlas.address(`${layer.folder}/tiles-${seed}-${variantOf(data, options)}-${number}.jpg`);
  }

  // A sheet that was asked for stays in memory, packed as it came.
  function want(source) {
    let picture = pictures.get(source);
    if (!picture) {
      picture = new Image();
      picture.decoding = "async";
      picture.src = source;
      pictures.set(source, picture);
    }
    return picture;
  }

  // Sheets of the first rows, one after the other, while there is nothing else to do.
  function wantAll(layer, data, rows, options, goesOn) {
    const sources = [...new Set(rows.map((row) => address(layer, data, row, options)))];
    const next = () => {
      const source = sources.shift();
      if (!source || !goesOn()) return;
      const picture = want(source);
      picture.decode().catch(() => {}).finally(() => soon(next));
    };
    soon(next);
  }

  const soon = (work) => (window.requestIdleCallback || window.setTimeout)(work);

  return { address, want, wantAll };
})();

const hasImage = (word) => word !== "failed" && word !== "missing";

// The image of a channel, or the word for what became of it.
function thumbnail(layer, data, row, options) {
  const word = fate(data, row, options);
  const made = element("span.picture", {
    role: "img",
    "aria-label": `${data.labels[row]}${word === "ok" ? "" : `, ${word}`}`,
  });
  if (word !== "ok") made.append(element("span.fate", { "aria-hidden": "true" }, word));
  if (hasImage(word)) showTile(made, layer, data, row, options);
  else made.classList.add("empty");
  return made;
}

function showTile(made, layer, data, row, options) {
  const source = sheets.address(layer, data, row, options);
  sheets.want(source);
  const first = Math.floor(row / data.perSheet) * data.perSheet;
  const down = Math.ceil(Math.min(data.perSheet, data.channels.length - first) / data.columns);
  const x = (row - first) % data.columns;
  const y = Math.floor((row - first) / data.columns);
  made.style.backgroundImage = `url("${source}")`;
  made.style.backgroundSize = `${100 * data.columns}% ${100 * down}%`;
  made.style.backgroundPosition = `${part(x, data.columns)}% ${part(y, down)}%`;
}

const part = (place, count) => (count > 1 ? (100 * place) / (count - 1) : 0);
