// A channel: its images, how they came about, and what they are evidence of.
"use strict";

function channelView(view, place, { model, layer }, data, block) {
  const row = data.channels.indexOf(place.channel);
  const { options } = place;
  const seed = seedOf(data, row, options);
  const variant = variantOf(data, options);
  const inBlock = row - block.first;
  view.append(
    element(
      "div.heading",
      {},
      element("h1", {}, element("span.of", {}, layer.name), ` ${data.labels[row]}`),
      neighbours(place, data, row),
    ),
    element(
      "div.channel",
      {},
      element(
        "div.images",
        {},
        portrait(layer, data, row, seed, variant),
        ...others(place, layer, data, row, seed, variant),
      ),
      element(
        "div.numbers",
        {},
        statistics(place, data, row),
        ascent(data, block, inBlock, seed, variant),
      ),
      element(
        "div.context",
        {},
        ...evidence(layer, data, block, row, inBlock),
        ...alike(place, layer, data, block, inBlock),
        ...elsewhere(place, model, layer),
      ),
    ),
  );
}

const section = (title, ...content) => element("section", {}, element("h2", {}, title), ...content);

// The channels before and after, in the order of the grid.
function neighbours(place, data, row) {
  const rows = ordered(data, place.options);
  const here = rows.indexOf(row);
  const link = (there, id, words, sign) => {
    if (here < 0 || rows[there] === undefined) return element("span.off", { "aria-hidden": "true" }, sign);
    const channel = data.channels[rows[there]];
    return element(
      "a.plain",
      { id, href: route({ ...place, channel }), "aria-label": `${words}: ${data.labels[rows[there]]}` },
      sign,
    );
  };
  return element(
    "nav.neighbours",
    { "aria-label": "Neighbours" },
    link(here - 1, "previous", "Previous", "←"),
    here < 0
      ? null
      : element("span.quiet", {}, `${(here + 1).toLocaleString("en")} of ${rows.length.toLocaleString("en")}`),
    link(here + 1, "next", "Next", "→"),
  );
}

// --- images ---------------------------------------------------------------------------------------

function portrait(layer, data, row, seed, variant) {
  const options = { seed: String(data.seeds[seed]), variant: data.variants[variant] };
  const word = fate(data, row, options);
  const [width, height] = data.image;
  const made = thumbnail(layer, data, row, options);
  made.classList.add("portrait");
  made.style.setProperty("--aspect", `${width / height}`);
  if (!data.large || !hasImage(word)) return made;
  const source = layerAtlas.address(`${layer.folder}/image-${row}-${seed}-${variant}.jpg`);
  made.removeAttribute("role");
  made.removeAttribute("aria-label");
  const words = `${data.labels[row]}, seed ${data.seeds[seed]}${word === "ok" ? "" : `, ${word}`}`;
  made.append(element("img", { src: source, alt: words, width, height }));
  return made;
}

// All images of the channel, if there are several: a row per seed, a column per variant.
function others(place, layer, data, row, seed, variant) {
  const variants = Math.max(1, data.variants.length);
  if (data.seeds.length * variants < 2) return [];
  const links = data.seeds.flatMap((number, s) =>
    Array.from({ length: variants }, (_, v) => {
      const options = { ...place.options, seed: String(number), variant: data.variants[v] };
      const words = [data.seeds.length > 1 ? `seed ${number}` : "", data.variants[v] || ""];
      return element(
        "a.tile",
        {
          href: route({ ...place, options }),
          "aria-current": s === seed && v === variant ? "true" : null,
        },
        thumbnail(layer, data, row, options),
        element("span.caption", {}, element("span.label", {}, words.filter(Boolean).join(" "))),
      );
    }),
  );
  return [element("div.others", { "--across": variants > 1 ? Math.min(variants, 6) : 4 }, ...links)];
}

// --- numbers --------------------------------------------------------------------------------------

function statistics(place, data, row) {
  const lines = data.statistics.map(({ name, meaning }) => {
    const values = column(data, name, place.options);
    const rank = rankOf(values, row);
    const address = route({ model: place.model, layer: place.layer, options: { sort: name } });
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, element("a", { href: address, title: meaning }, worded(name))),
      element("td", {}, brief(values[row])),
      element("td", {}, rank === null ? null : rankMark(rank)),
    );
  });
  return section(
    "Statistics",
    element(
      "table",
      {},
      element(
        "thead.unseen",
        {},
        element("tr", {}, ...["Statistic", "Value", "Rank in the layer"].map((words) => element("th", { scope: "col" }, words))),
      ),
      element("tbody", {}, ...lines),
    ),
  );
}

// What share of the other channels has less, equal ones counted by half; null if all are equal.
function rankOf(values, row) {
  const known = values.filter((value) => value !== null);
  if (values[row] === null || known.every((value) => value === known[0])) return null;
  const below = known.filter((value) => value < values[row]).length;
  const equal = known.filter((value) => value === values[row]).length - 1;
  return (below + equal / 2) / (known.length - 1);
}

function rankMark(rank) {
  const words = `more than ${Math.round(100 * rank)} % of the channels`;
  return element("span.rank", { role: "img", "aria-label": words, title: words, "--rank": rank });
}

function ascent(data, block, inBlock, seed, variant) {
  if (!block.trace.length) return null;
  const traces = block.trace[inBlock].map((ofSeed) => ofSeed[variant]);
  const drawing = curve(block.step, traces, seed);
  return drawing && section("Ascent", drawing);
}

// --- evidence -------------------------------------------------------------------------------------

const TITLES = { top: "Photographs that excite it most", bottom: "Photographs that excite it least" };

function evidence(layer, data, block, row, inBlock) {
  const facts = data.photographs;
  if (!facts) return [];
  const told = block.photographs[inBlock];
  return ["top", "bottom"]
    .filter((end) => told[end] && told[end].count)
    .map((end) => section(TITLES[end], photographs(layer, facts, told[end], end, row)));
}

function photographs(layer, facts, told, end, row) {
  const source = layerAtlas.address(`${layer.folder}/photographs-${row}.jpg`);
  const cut = (place, kind, words) => {
    const made = element("span.photograph", { role: "img", "aria-label": words, title: words });
    made.style.backgroundImage = `url("${source}")`;
    made.style.backgroundSize = `${100 * facts.across}% ${100 * facts.rows.length}%`;
    const down = facts.rows.indexOf(kind);
    made.style.backgroundPosition = `${part(place, facts.across)}% ${part(down, facts.rows.length)}%`;
    return made;
  };
  const figures = Array.from({ length: told.count }, (_, place) => {
    const path = told.path ? told.path[place] : `photograph ${place + 1}`;
    const value = told.score ? brief(told.score[place]) : "";
    const salient = end === "top" && facts.rows.includes("saliency");
    return element(
      "li",
      {},
      cut(place, end, path),
      salient ? cut(place, "saliency", `What counts in ${path}`) : null,
      element("span.caption", {}, element("span.quiet", {}, value)),
    );
  });
  return element("ul.photographs", {}, ...figures);
}

// --- other channels -------------------------------------------------------------------------------

function alike(place, layer, data, block, inBlock) {
  const rows = block.similar[inBlock];
  if (!rows.length) return [];
  const links = rows.map((row, n) =>
    element(
      "li",
      {},
      element(
        "a.tile",
        { href: route({ ...place, channel: data.channels[row] }) },
        thumbnail(layer, data, row, { variant: place.options.variant }),
        element(
          "span.caption",
          {},
          element("span.label", {}, data.labels[row]),
          element("span.quiet", {}, block.cosine[inBlock][n].toFixed(2)),
        ),
      ),
    ),
  );
  return [section("Most similar by response", element("ul.alike", {}, ...links))];
}

// The channel of this number in other layers: those of the same block first, then the rest.
function elsewhere(place, model, layer) {
  const { channel } = place;
  const parent = (name) => name.split(".").slice(0, -1).join(".");
  const near = (each) => parent(each.name) === parent(layer.name) && parent(layer.name) !== "";
  const here = model.layers.filter((each) => each !== layer && holds(each, channel));
  const models = layerAtlas.known("index").models.filter((each) => each !== model);
  const same = models.flatMap((other) =>
    other.layers
      .filter((each) => each.name === layer.name && holds(each, channel))
      .map((each) => [other, each]),
  );
  const groups = [
    [`In ${parent(layer.name)}`, here.filter(near).map((each) => [model, each])],
    [here.some(near) ? "In other layers" : "", here.filter((each) => !near(each)).map((each) => [model, each])],
    ["In other models", same],
  ].filter(([, list]) => list.length);
  if (!groups.length) return [];
  const lines = groups.flatMap(([title, list]) => [
    title ? element("h3", {}, title) : null,
    element(
      "ul.elsewhere",
      {},
      ...list.map(([other, each]) =>
        element(
          "li",
          {},
          element(
            "a",
            { href: route({ model: other.name, layer: each.name, channel }) },
            other === model ? each.name : `${other.name} ${each.name}`,
          ),
        ),
      ),
    ),
  ]);
  return [section(`Channel ${channel} elsewhere`, ...lines.filter(Boolean))];
}

const holds = (layer, channel) => (layer.some ? layer.some.includes(channel) : channel < layer.channels);
