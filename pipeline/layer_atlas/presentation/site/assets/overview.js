// The atlas: models, and each as the stack of its layers.
"use strict";

function overview(view, place, { model: only }) {
  const index = layerAtlas.known("index");
  const models = only ? [only] : index.models;
  const layers = models.reduce((sum, model) => sum + model.layers.length, 0);
  const channels = models.flatMap((model) => model.layers).reduce((sum, each) => sum + each.channels, 0);
  const nouns = new Set(models.flatMap((model) => model.layers).map((each) => each.noun));
  const facts = [counted(layers, "layer"), counted(channels, nouns.size === 1 ? [...nouns][0] : "target")];
  if (models.length > 1) facts.unshift(counted(models.length, "model"));
  view.append(
    element(
      "div.heading",
      {},
      element("h1", {}, only ? only.name : index.title),
      element("p.facts", {}, facts.join(" · ")),
    ),
    ...models.map((model) => stack(model, !only && models.length > 1)),
  );
}

function stack(model, named) {
  const about = [
    model.source === model.name ? "" : model.source,
    model.about,
    model.size.length ? `network input ${pixels(model.size)}` : "",
    `images ${[...new Set(model.layers.map((layer) => pixels(layer.image)))].join(", ")}`,
    model.weights ? `weights ${model.weights.slice(0, 12)}` : "",
  ].filter(Boolean);
  return element(
    "section.model",
    { "aria-label": model.name },
    named
      ? element("h2", {}, element("a", { href: route({ model: model.name }) }, model.name))
      : null,
    element("p.facts", {}, about.join(" · ")),
    element("ol.stack", {}, ...network(model)),
  );
}

// The network from input to output: stages, in them the layers with images, and between these what else
// the forward pass goes through.
function network(model) {
  const layers = new Map(model.layers.map((layer) => [layer.name, layer]));
  const shown = model.layers.map((layer) => floor(model, layer));
  if (!model.modules.length) return shown;
  const names = model.modules.map(([name]) => name);
  const stageOf = stages(names);
  const isLeaf = leaves(names);
  const made = [];
  let stage = null;
  let between = [];
  const flush = () => {
    if (between.length) made.push(passage(between));
    between = [];
  };
  // What a module returns comes after all that is within it.
  const around = [];
  const leave = (name) => {
    while (around.length && !name.startsWith(`${around.at(-1).name}.`)) {
      flush();
      made.push(floor(model, around.pop()));
    }
  };
  for (const module of model.modules) {
    const [name, type, shape] = module;
    const layer = layers.get(name);
    layers.delete(name);
    leave(name);
    if (!layer && !isLeaf(name)) continue;
    if (stageOf(name) !== stage) {
      stage = stageOf(name);
      if (stage !== name) {
        flush();
        made.push(element("li.stage", {}, element("span.name", {}, stage), whole(model, stage)));
      }
    }
    if (layer && !isLeaf(name)) around.push(layer);
    else if (layer) {
      flush();
      made.push(floor(model, layer));
    } else between.push([name, type, shape]);
  }
  leave("");
  flush();
  // Of joint objectives, and of layers that no module stands for.
  return [...made, ...[...layers.values()].map((layer) => floor(model, layer))];
}

// The type and shape of a stage that is a module itself.
function whole(model, stage) {
  const found = model.modules.find(([name]) => name === stage);
  return found ? element("span.quiet", {}, [found[1], found[2].join(" × ")].join(" · ")) : null;
}

// A stage is the first part of a name, or the first two where one part holds most of the network.
function stages(names) {
  const first = (name) => name.split(".")[0];
  const counts = new Map();
  for (const name of names) counts.set(first(name), (counts.get(first(name)) || 0) + 1);
  const isMost = (name) => counts.get(first(name)) > 0.6 * names.length && counts.get(first(name)) > 12;
  return (name) => (isMost(name) ? name.split(".").slice(0, 2).join(".") : first(name));
}

// Whether a module has none within it.
function leaves(names) {
  const parents = new Set(names.flatMap((name) => name.split(".").map((_, n, parts) => parts.slice(0, n).join("."))));
  return (name) => !parents.has(name);
}

const MOST_PASSED = 12;

// Modules without images, one after the other, with shapes where these change.
function passage(modules) {
  let before = null;
  const words = modules.slice(0, MOST_PASSED).map(([name, type, shape]) => {
    const size = shape.join(" × ");
    const text = size === before ? type : `${type} ${size}`;
    before = size;
    return element("span", { title: `${name}: ${size}` }, text);
  });
  if (modules.length > MOST_PASSED) words.push(element("span", {}, `${modules.length - MOST_PASSED} more`));
  return element("li.passage", {}, ...words);
}

function floor(model, layer) {
  const [width, height] = layer.strip.tile;
  return element(
    "li",
    {},
    element(
      "a.floor",
      { href: route({ model: model.name, layer: layer.name }) },
      element(
        "span.who",
        {},
        element("span.name", { title: moduleName(layer) }, layer.title),
        element("span.quiet", {}, [layer.type, layer.shape.join(" × ")].filter(Boolean).join(" · ")),
      ),
      element(
        "span.strip",
        { "--aspect": width / height },
        element("img", {
          src: layerAtlas.address(`${layer.folder}/strip.jpg`),
          alt: `Images of ${counted(layer.strip.count, layer.noun)}`,
          loading: "lazy",
          decoding: "async",
          width: layer.strip.count * width,
          height,
        }),
      ),
      element(
        "span.share",
        {},
        element("span.quiet", {}, amount(layer)),
        layer.share === null
          ? null
          : element("span.quiet", {}, `${share(layer.share)} of FLOPs`),
      ),
    ),
  );
}
