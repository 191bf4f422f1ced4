// Labels that an encoder proposes for channels, and channels by the words of its vocabulary.
"use strict";

const LABEL_SOURCES = { dataset: "strongest photographs", optimized: "optimized images" };

// What is proposed for a channel, with the score of each label; null if nothing is.
function proposedLabels(data, block, inBlock) {
  const about = data.words;
  if (!about) return null;
  const lists = Object.entries(block.words[inBlock]).map(([source, { labels, margin }]) => {
    const lines = labels.map(([word, score]) => element("tr", {}, element("th", { scope: "row" }, word), element("td", {}, brief(score))));
    return element(
      "table.proposed",
      {},
      element("caption", {}, `By its ${LABEL_SOURCES[source]}, margin ${brief(margin)}`),
      element("thead.unseen", {}, element("tr", {}, ...["Label", "Cosine"].map((words) => element("th", { scope: "col" }, words)))),
      element("tbody", {}, ...lines),
    );
  });
  const words = `Proposed by ${about.encoder} from ${about.vocabulary}, not checked by anyone. Cosine of text and images, averaged.`;
  return section("Proposed labels", ...lists, element("p.note", {}, words));
}

// Channels whose images are most like a word of the vocabulary, the words that begin so first.
function channelsProposed(wanted) {
  const data = layerAtlas.known("words");
  if (!data || wanted.length < 2) return [];
  const places = data.words.map((word) => word.toLowerCase().indexOf(wanted));
  const words = places.map((_, n) => n).filter((n) => places[n] >= 0);
  words.sort((a, b) => places[a] - places[b] || data.words[a].length - data.words[b].length);
  return words.slice(0, MOST_FOUND).flatMap((word) =>
    data.found[word].map(([at, channel, score]) => {
      const [model, layer, title, source] = data.layers[at];
      const note = `“${data.words[word]}” ${brief(score / 1000)}, proposed by ${data.encoder} by ${LABEL_SOURCES[source]}`;
      return [`${title}:${channel}`, note, route({ model, layer, channel })];
    }),
  );
}

// Thousands of words are needed by those alone who search.
document.addEventListener("focusin", ({ target }) => {
  if (target.id !== "search" || layerAtlas.known("words") || !layerAtlas.known("index")?.words) return;
  layerAtlas.load("words").then(() => target.dispatchEvent(new Event("input")));
});
