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
    model.size ? `network input ${pixels([model.size, model.size])}` : "",
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
    spectrum(model),
    element("ol.stack", {}, ...model.layers.map((layer) => floor(model, layer))),
  );
}

// The forward pass as a line, each layer as long as its share of FLOPs. A layer within another one is
// part of that one's share, and has no length of its own.
function spectrum(model) {
  const within = (layer) => model.layers.some((each) => layer.name.startsWith(`${each.name}.`));
  const outer = model.layers.filter((layer) => !within(layer));
  const shares = outer.map((layer) => layer.share || 0);
  const rest = Math.max(0, 1 - shares.reduce((sum, each) => sum + each, 0));
  if (!shares.some(Boolean)) return null;
  const parts = outer.map((layer, place) =>
    element("span", { "--share": shares[place], title: `${layer.title} ${share(shares[place])}` }),
  );
  return element(
    "div.spectrum",
    { "aria-hidden": "true" },
    ...parts,
    rest > 0.001 ? element("span.rest", { "--share": rest, title: `other layers ${share(rest)}` }) : null,
  );
}

function floor(model, layer) {
  const largest = Math.max(...model.layers.map((each) => each.share || 0), 1e-9);
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
          : element(
              "span.flops",
              {},
              element("span.gauge", { "--part": layer.share / largest, "aria-hidden": "true" }),
              element("span.quiet", {}, `${share(layer.share)} of FLOPs`),
            ),
      ),
    ),
  );
}
