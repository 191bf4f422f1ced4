// A channel in other networks of one architecture: the channel of the same number, or its best match.
"use strict";

// What the slider was moved to, on the page of which channel: a change of the way leaves it there.
const slid = { page: "", network: "" };

// Between other layers neither a number nor a match relates anything.
function elsewhere(place, model, layer, data, row) {
  if (!["channel", "class"].includes(layer.noun)) return [];
  const networks = layerAtlas
    .known("index")
    .models.filter((each) => each.architecture === model.architecture)
    .flatMap((network) => sameLayers(network, layer));
  const canMatch = networks.some(({ network }) => data.similarity[network.name]?.match);
  const byMatch = canMatch && place.options.by === "match";
  const related = ({ name }) => (byMatch && name !== model.name ? matched : sameNumber)(data, row, name, place.channel);
  const shown = networks
    .map((each) => ({ ...each, ...related(each.network) }))
    .filter((each) => byMatch || holds(each.layer, each.channel))
    .map((each) => counterpart(model, each, place.options.by));
  const here = shown.findIndex(({ name }) => name === model.name);
  if (shown.length < 2 && !canMatch) return [];
  const noun = layer.noun === "class" ? "Class" : "Channel";
  return [
    section(
      `${noun} ${place.channel} in networks of the same architecture`,
      canMatch ? ways(place, byMatch) : null,
      shown.length > 1 ? slider(place, shown, here) : element("p.note", {}, `No other network has an image of this ${layer.noun}.`),
      element("ul.elsewhere", {}, ...shown.filter((_, n) => n !== here).map(networkTile)),
      shown.some(({ similarity }) => similarity !== null) ? element("p.note", {}, WAYS[byMatch ? "match" : ""].note) : null,
    ),
  ];
}

// The layer of a network that is the same as one of another, if there is one.
const sameLayers = (network, layer) =>
  network.layers
    .filter((each) => ["name", "type", "of", "noun"].every((key) => each[key] === layer[key]))
    .map((each) => ({ network, layer: each }));

const SIMILARITY = "similarity, the correlation of the channels’ responses to the same photographs";
const WAYS = {
  "": { words: "same number", note: `Number: ${SIMILARITY}.` },
  match: {
    words: "best match",
    note: `Numbers: the matched channel, and its ${SIMILARITY}. Matches are one to one, and their similarities have the largest sum.`,
  },
};

// The way networks are compared stands in the address, and goes along to other channels.
function ways(place, byMatch) {
  const choose = (by) => {
    control = `by-${by || "number"}`; // not every browser gives a button that is clicked the focus
    location.assign(route({ ...place, options: { ...place.options, by } }));
  };
  const buttons = Object.entries(WAYS).map(([by, { words }]) =>
    element(
      "button",
      { type: "button", id: `by-${by || "number"}`, "aria-pressed": String(byMatch === (by === "match")), onclick: () => choose(by) },
      words,
    ),
  );
  return element("div.views.ways", { role: "group", "aria-label": "Channels of other networks" }, ...buttons);
}

const hundredths = (value) => (value ?? null) === null ? null : value / 100;

const sameNumber = (data, row, name, channel) => ({
  channel,
  similarity: hundredths(data.similarity[name]?.index[row]),
});

// -1: no match.
function matched(data, row, name) {
  const match = data.similarity[name]?.match?.[row] ?? -1;
  const channel = match < 0 ? null : match;
  return { channel, similarity: hundredths(data.similarity[name]?.matched?.[row]), isMatch: true };
}

const holds = (layer, channel) => (layer.some ? layer.some.includes(channel) : channel < layer.channels);

// A channel of another network, whose picture comes when the data of its layer are there.
function counterpart(model, { network, layer, channel, similarity, isMatch }, by) {
  const { name } = network;
  const there = channel !== null && holds(layer, channel);
  const picture = () => {
    const made = element("span.picture", { "--aspect": layer.image[0] / layer.image[1] });
    if (!there) {
      made.classList.add("empty");
      return made;
    }
    const fill = (data) => {
      const image = thumbnail(layer, data, data.channels.indexOf(channel), {});
      image.setAttribute("aria-label", `${name}: ${image.getAttribute("aria-label")}`);
      made.replaceWith(image);
    };
    layerAtlas.load(`${layer.folder}/layer`).then(fill, () => made.classList.add("empty"));
    return made;
  };
  const weights = network.weights === model.weights ? " same weights" : " other weights";
  const value = similarity?.toFixed(2);
  const words = value === undefined ? [] : [`similarity ${value}`];
  const related = {
    // What stands below a tile, and beside the slider.
    caption: isMatch ? `${channel}: ${value}` : (value ?? weights),
    words: [isMatch ? `channel ${channel}` : "", ...words, there ? "" : "no image"].filter(Boolean),
  };
  const none = { caption: "no match", words: ["no match"] };
  const href = there ? route({ model: name, layer: layer.name, channel, options: { by } }) : null;
  return { name, similarity, picture, href, ...(channel === null ? none : related) };
}

const networkTile = ({ name, href, caption, picture }) =>
  element(
    "li",
    {},
    element(
      href ? "a.tile" : "div.tile",
      { href },
      picture(),
      element("span.caption", {}, element("span.label", { title: name }, name), element("span.quiet", {}, caption)),
    ),
  );

// One network after the other, in the order of the atlas: checkpoints as training went on.
function slider({ model, layer, channel }, networks, here) {
  const page = route({ model, layer, channel });
  const shown = element("div.shown", {});
  const said = element("output", { for: "network" });
  const input = element("input", {
    type: "range",
    id: "network",
    min: 0,
    max: networks.length - 1,
    step: 1,
    oninput: () => show(Number(input.value)),
  });
  function show(n) {
    const { name, href, picture, words } = networks[n];
    Object.assign(slid, { page, network: name });
    const facts = n === here ? ["this network"] : words;
    shown.replaceChildren(picture());
    said.replaceChildren(element(href ? "a" : "span", { href }, name), ...facts.map((each) => ` · ${each}`));
    input.setAttribute("aria-valuetext", [name, ...facts].join(", "));
  }
  const before = slid.page === page ? networks.findIndex(({ name }) => name === slid.network) : -1;
  input.value = before < 0 ? here : before;
  show(Number(input.value));
  const label = element("label", { for: "network" }, `Network, of ${networks.length}`);
  return element("div.networks", {}, shown, element("div.slide", {}, label, input, said));
}

// --- in a layer -----------------------------------------------------------------------------------

const RELATIONS = {
  similarity: { column: "index", words: "similarity to", channel: "the channel of the same number" },
  match_similarity: { column: "matched", words: "best match in", channel: "the matched channel" },
};
const OF_NETWORK = new RegExp(`^(${Object.keys(RELATIONS).join("|")})/(.*)$`, "s");

// A filter ends a name at such signs.
const SIGNS = { "%": "%25", ":": "%3A", ";": "%3B" };
const coded = (label) => label.replace(/[%:;]/g, (sign) => SIGNS[sign]);
const decoded = (name) => Object.entries(SIGNS).reduceRight((text, [sign, code]) => text.replaceAll(code, sign), name);

// The name of such a statistic in words; null for any other.
function networkWords(name) {
  const [, relation, label] = name.match(OF_NETWORK) ?? [];
  return relation ? `${RELATIONS[relation].words} ${decoded(label)}` : null;
}

// The data of a layer, where similarities to other networks are statistics to sort and filter by. A page
// of a channel has them beside the pictures.
function withNetworks(data) {
  if (data.statistics.some(({ network }) => network)) return data;
  for (const [label, known] of Object.entries(data.similarity)) {
    for (const [relation, { column, channel }] of Object.entries(RELATIONS)) {
      if (!known[column]) continue;
      data.statistics.push({
        name: `${relation}/${coded(label)}`,
        meaning: `correlation of responses to the same photographs with those of ${channel} in ${label}`,
        values: known[column].map(hundredths),
        axes: 0,
        ranked: true,
        network: label,
      });
    }
  }
  return data;
}

// A value of a statistic: similarities are known to two decimals.
const stated = (name, value) => (networkWords(name) && value !== null ? value.toFixed(2) : brief(value));

// The channel of the other network by which a layer is sorted, for one of its own; null without any.
function sortedBy(layer, data, row, sort = "") {
  const [, relation, label] = sort.match(OF_NETWORK) ?? [];
  const { models } = layerAtlas.known("index");
  const [found] = models.filter(({ name }) => relation && name === decoded(label)).flatMap((each) => sameLayers(each, layer));
  if (!found) return null;
  const { name } = found.network;
  const channel = data.channels[row];
  const related = relation === "similarity" ? sameNumber(data, row, name, channel) : matched(data, row, name);
  return counterpart(found.network, { ...found, ...related }, "");
}
