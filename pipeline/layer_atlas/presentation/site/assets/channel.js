// A channel: its images, how they came about, and what they are evidence of.
"use strict";

function channelView(view, place, { model, layer }, data, block) {
  const { open } = place;
  delete place.open; // no other address of the page has it
  const row = data.channels.indexOf(place.channel);
  const { options } = place;
  const seed = seedOf(data, row, options);
  const variant = variantOf(data, options);
  const inBlock = row - block.first;
  const viewer = new Viewer(place, channelItems(layer, data, row, block.photographs[inBlock], block.cell[inBlock]));
  view.append(
    element(
      "div.heading",
      {},
      element("h1", {}, element("span.of", { title: moduleName(layer) }, layer.title), ` ${data.labels[row]}`),
      neighbours(place, data, row),
    ),
    element(
      "div.channel",
      {},
      element(
        "div.images",
        {},
        portrait(viewer, layer, data, row, seed, variant),
        ...others(place, layer, data, row, seed, variant),
      ),
      element(
        "div.numbers",
        {},
        proposedLabels(data, block, inBlock),
        statistics(place, layer, data, row),
        ascent(data, block, inBlock, seed, variant),
        notesSection(data, row),
      ),
      element(
        "div.context",
        {},
        ...(data.map ? cellSections(viewer, data, row, block.cell[inBlock]) : []),
        ...evidence(viewer, layer, data, block, row, inBlock),
        ...connections(model, layer, data, block.connections[inBlock]),
        ...alike(place, layer, data, block, inBlock),
        ...elsewhere(place, model, layer, data, row),
      ),
    ),
    viewer.dialog,
  );
  if (open) viewer.open(open);
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

function portrait(viewer, layer, data, row, seed, variant) {
  const options = { seed: String(data.seeds[seed]), variant: data.variants[variant] };
  const made = thumbnail(layer, data, row, options);
  made.classList.add("portrait");
  if (!hasImage(fate(data, row, options))) return made;
  const { id, words, source } = imageItem(layer, data, row, seed, variant);
  if (source) {
    const [width, height] = data.image;
    made.removeAttribute("role");
    made.removeAttribute("aria-label");
    made.append(element("img", { src: source, alt: words, width, height }));
  }
  return viewer.opener(id, { title: "Enlarge" }, made);
}

// What sets an image apart from others of its channel: seed 7, negative.
const called = (data, seed, variant) => [`seed ${data.seeds[seed]}`, data.variants[variant]].filter(Boolean).join(", ");

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

function statistics(place, layer, data, row) {
  const { seed, variant } = place.options;
  const value = ({ name }) => brief(column(data, name, place.options)[row]);
  const own = data.statistics.filter(({ network }) => !network);
  const lines = own
    .filter((each) => !isConstant(data, each))
    .map((each) => {
      const { name, ranked } = each;
      const values = column(data, name, place.options);
      const rank = ranked ? rankOf(values, row) : null;
      const address = route({ model: place.model, layer: place.layer, options: { sort: name, seed, variant } });
      return element(
        "tr",
        {},
        element("th", { scope: "row" }, element("a", { href: address, title: each.meaning }, worded(name))),
        element("td", {}, value(each)),
        element("td", {}, rank === null ? null : rankMark(rank, layer)),
        element("td", {}, meaningButton(each)),
      );
    });
  const constant = own.filter((each) => isConstant(data, each));
  const same = constant.flatMap((each, n) => [n ? ", " : "", meaningButton(each, `${worded(each.name)} ${value(each)}`)]);
  return section(
    "Statistics",
    element(
      "table",
      {},
      element(
        "thead.unseen",
        {},
        element("tr", {}, ...["Statistic", "Value", "Rank", "Meaning"].map((words) => element("th", { scope: "col" }, words))),
      ),
      element("tbody", {}, ...lines),
    ),
    same.length ? element("p.note.constant", {}, `The same for every ${layer.noun}: `, ...same, ".") : null,
    ...own.map((each) => meaningBox(each, ranked(each))),
  );
  function ranked(each) {
    const rank = each.ranked ? rankOf(column(data, each.name, place.options), row) : null;
    return rank && `Here ${value(each)}, ${rankWords(rank, layer)}.`;
  }
}

// Whether a statistic is the same in the whole layer, and so says nothing of a channel.
function isConstant(data, statistic) {
  statistic.constant ??= data.channels.length > 1 && same(statistic.values);
  return statistic.constant;
}

const same = (values) => values.every((value) => value === values[0]);

const meaningId = (name) => `meaning-${name.replace(/\W/g, "-")}`;

function meaningButton({ name }, words = null) {
  const label = words ? null : `What ${worded(name)} is`;
  const kind = words ? "button.words" : "button.plain.what";
  return element(kind, { type: "button", popovertarget: meaningId(name), "aria-label": label }, words || "?");
}

function meaningBox({ name, meaning }, rank) {
  const id = meaningId(name);
  const made = element(
    "div.meaning",
    { id, popover: "auto", role: "note", "aria-label": worded(name) },
    element("p", {}, element("strong", {}, worded(name)), `: ${meaning}`),
    rank ? element("p.quiet", {}, rank) : null,
  );
  made.addEventListener("toggle", ({ newState }) => {
    if (newState === "open") beside(made, document.querySelector(`[popovertarget="${id}"]`).getBoundingClientRect());
  });
  return made;
}

// How many of the channels that have a value have less, as much, and more; null if all are equal.
function rankOf(values, row) {
  const known = values.filter((value) => value !== null);
  if (values[row] === null || known.every((value) => value === known[0])) return null;
  const below = known.filter((value) => value < values[row]).length;
  const above = known.filter((value) => value > values[row]).length;
  return { below, above, equal: known.length - below - above - 1 };
}

function rankMark(rank, layer) {
  const words = rankWords(rank, layer);
  const along = (rank.below + rank.equal / 2) / (rank.below + rank.equal + rank.above);
  return element("span.rank", { role: "img", "aria-label": words, title: words, "--rank": along });
}

function rankWords({ below, equal, above }, layer) {
  const others = below + equal + above;
  const where = layer.channels < (layer.of ?? layer.channels) ? " in this atlas" : "";
  if (below && above) {
    const as = equal ? `, equal to ${equal.toLocaleString("en")}` : "";
    return `larger than ${below.toLocaleString("en")} of ${counted(others, `other ${layer.noun}`)}${where}${as}`;
  }
  const end = `the ${below ? "largest" : "smallest"} of ${counted(others + 1, layer.noun)}${where}`;
  return equal ? `${end}, as ${equal === 1 ? "is 1 other" : `are ${equal.toLocaleString("en")} others`}` : end;
}

function ascent(data, block, inBlock, seed, variant) {
  if (!block.trace.length) return null;
  const traces = block.trace[inBlock].map((ofSeed) => ofSeed[variant]);
  const drawing = curve(block.step, traces, seed);
  return drawing && section("Ascent", drawing);
}

// --- evidence -------------------------------------------------------------------------------------

const TITLES = { top: "Photographs that excite it most", bottom: "Photographs that excite it least" };

function evidence(viewer, layer, data, block, row, inBlock) {
  if (!data.photographs) return [];
  const found = block.photographs[inBlock];
  if (found.constant !== null) {
    const words = `All photographs excite it alike (${brief(found.constant)}): none stands out.`;
    return [section("Photographs", element("p.note", {}, words))];
  }
  return ["top", "bottom"]
    .filter((end) => found[end] && found[end].length)
    .map((end) => section(TITLES[end], photographs(viewer, layer, data, found[end], end, row), tied(found[end])));
}

// Photographs of one score are in no order, and there may be more of them.
function tied(slots) {
  const [first] = slots;
  if (slots.length < 2 || first.score === null || !slots.every((each) => each.score === first.score)) return null;
  return element("p.note", {}, "All of these excite it alike; others may as well.");
}

function photographs(viewer, layer, data, slots, end, row) {
  const figures = slots.map(({ slot, path, file, score, salient, facet }, rank) => {
    const name = path || `photograph ${slot + 1}`;
    const image = element("img", { src: layerAtlas.address(file), alt: name, loading: "lazy" });
    return element(
      "li",
      {},
      viewer.opener(`${end}${rank + 1}`, { class: "photograph", title: name }, image),
      salient ? whatCounts(layer, data, row, slot, name) : null,
      element("span.caption", {}, facet ? `facet ${facet} ` : null, element("span.quiet", {}, score === null ? "" : brief(score))),
    );
  });
  return element("ul.photographs", {}, ...figures);
}

function whatCounts(layer, data, row, slot, name) {
  const words = `What counts in ${name}`;
  const made = element("span.photograph", { role: "img", "aria-label": words, title: words });
  lay(made, [saliencyPart(layer, data, row, slot)]);
  return made;
}

// --- other channels -------------------------------------------------------------------------------

// Compared are the images that stand for their channels, whichever image of this one is looked at.
function alike(place, layer, data, block, inBlock) {
  const { rows, cosine, best } = block.similar[inBlock];
  if (best === null) return [];
  const title = "Similar by response";
  if (!rows.length) {
    const words = `No ${layer.noun} is similar (best cosine: ${best.toFixed(2)}).`;
    return [section(title, element("p.note", {}, words))];
  }
  const lead = called(data, data.lead[block.first + inBlock], 0);
  const note = `Cosine of the layer’s responses to the images, here that of ${lead}; ${data.similar} or more.`;
  const links = rows.map((row, n) =>
    element(
      "li",
      {},
      element(
        "a.tile",
        { href: route({ ...place, channel: data.channels[row] }) },
        thumbnail(layer, data, row, {}),
        element(
          "span.caption",
          {},
          element("span.label", {}, data.labels[row]),
          element("span.quiet", {}, cosine[n].toFixed(2)),
        ),
      ),
    ),
  );
  return [section(title, element("ul.alike", {}, ...links), element("p.note", {}, note))];
}
