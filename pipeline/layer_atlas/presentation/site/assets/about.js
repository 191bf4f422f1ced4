// What the images are and how they were made, and what can be taken from the pages.
"use strict";

function aboutView(view, about) {
  const { title } = layerAtlas.known("index");
  const status = element("p.note", { role: "status" }, keptWords());
  view.append(
    element("div.heading", {}, element("h1", {}, `About ${title}`)),
    element(
      "div.prose",
      {},
      section("What these images are", ...about.what.map((words) => element("p", {}, words))),
      section("How they were made", ...about.methods.map((words) => element("p", {}, words)), listOf(about.works)),
      section("Networks and data", ...about.networks.map(networkFacts), ...about.dataset.map((words) => element("p", {}, words))),
      section("Licence", ...about.licence.map((words) => element("p", {}, words))),
      section(
        "How to cite",
        element("p", {}, "BibTeX entries of the works above; the file has the same:"),
        copied("bibtex", about.bibtex.join("\n\n"), 8),
        element(
          "p.actions",
          {},
          element("button", { type: "button", onclick: () => saveFile("references.bib", "text/plain", `${about.bibtex.join("\n\n")}\n`) }, "references.bib"),
        ),
      ),
      section(
        "How to make them again",
        element("p", {}, about.again),
        about.command ? copied("command", about.command, 2) : null,
        element(
          "p.actions",
          {},
          about.config
            ? element("button", { type: "button", onclick: () => saveFile(`${title}.yaml`, "text/plain", about.config) }, "All settings")
            : null,
        ),
        facts(about.versions),
      ),
      element("section.notes", {}, element("h2", {}, "Notes"), status, notesTools(status)),
    ),
  );
}

const listOf = (words) => (words.length ? element("ul.works", {}, ...words.map((each) => element("li", {}, each))) : null);

const facts = (pairs) =>
  element("dl.pairs", {}, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));

const networkFacts = ({ name, pairs }) => element("div", {}, element("h3", {}, name), facts(pairs));

// A text to take away: chosen as a whole when it has the focus, and copied by a button.
function copied(id, words, rows) {
  const text = element("textarea", { id, rows, readonly: true, spellcheck: "false", "aria-label": id === "bibtex" ? "BibTeX" : "Command" });
  text.value = words;
  text.addEventListener("focus", () => text.select());
  const button = element("button", { type: "button", onclick: () => copy(text, button) }, "Copy");
  return element("div.copied", {}, text, button);
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text.value);
  } catch {
    // Pages from disk may not be allowed to; the old way still is.
    text.select();
    document.execCommand("copy");
  }
  button.textContent = "Copied";
}

// --- downloads of a grid --------------------------------------------------------------------------

function downloads(place, model, layer, data, rows) {
  const csv = () => saveFile(`${layer.title}.csv`, "text/csv", table(layer, data, rows, place.options));
  const made = element("details.downloads", {}, element("summary", {}, "Take away"));
  made.addEventListener(
    "toggle",
    () =>
      made.append(
        element(
          "div",
          {},
          element(
            "p.actions",
            {},
            element("button", { type: "button", id: "csv", onclick: csv }, `Statistics of ${counted(rows.length, layer.noun)} (CSV)`),
            layer.montage
              ? element("a", { href: layerAtlas.address(`${layer.folder}/montage.png`), download: `${layer.title}.png` }, "Montage (PNG)")
              : null,
          ),
          element("p.note", {}, `The command that draws ${rows.length === 1 ? "this" : "these"} as a figure for a paper:`),
          copied("figure-command", figureCommand(place, model, layer, data, rows), 3),
        ),
      ),
    { once: true },
  );
  return made;
}

// The statistics of the images that are shown, one row for each, in their order.
function table(layer, data, rows, options) {
  const names = data.statistics.map(({ name }) => name);
  const columns = names.map((name) => column(data, name, options));
  const head = ["layer", "channel", "label", "seed", "variant", "status", ...names, "favourite", "tags", "note"];
  const lines = rows.map((row) => {
    const { note, tags, favourite } = notes.of(notes.place(data, row));
    const job = [data.seeds[seedOf(data, row, options)], data.variants[variantOf(data, options)] ?? "", fate(data, row, options)];
    return [layer.name, data.channels[row], data.labels[row], ...job, ...columns.map((values) => values[row]), Number(favourite), tags.join(", "), note];
  });
  return [head, ...lines].map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

function cell(value) {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// --- the command of a figure ----------------------------------------------------------------------

function figureCommand(place, model, layer, data, rows) {
  const { options } = place;
  const settings = [
    `name=${hydra(layerAtlas.known("index").title)}`,
    "figure=images",
    `figure.models=[${hydra(model.name)}]`,
    `figure.layers=[${hydra(globbed(layer.name))}]`,
    `figure.channels=${chosenChannels(data, rows, options)}`,
  ];
  if (options.seed) settings.push(`figure.seeds=[${options.seed}]`);
  if (options.variant) settings.push(`figure.variants=[${hydra(options.variant)}]`);
  if (options.sort && !networkWords(options.sort)) settings.push(`figure.tell=${hydra(options.sort)}`);
  return ["atlas", "figure", ...settings.map(shell)].join(" ");
}

function chosenChannels(data, rows, options) {
  if (rows.length === data.channels.length && !options.sort && !options.up) return "all";
  return `[${rows.map((row) => data.channels[row]).join(",")}]`;
}

// A name as a glob that matches it alone.
const globbed = (name) => name.replace(/[[\]*?]/g, (sign) => `[${sign}]`).replaceAll("@", "?");

const WORDS = ["null", "true", "false", "inf", "nan"];

// A text in the grammar of the command line's settings.
function hydra(text) {
  if (/^[A-Za-z_*][\w.*/-]*$/.test(text) && !WORDS.includes(text.toLowerCase())) return text;
  const quoted = text
    .replace(/(\\*)\$\{/g, "$1$1\\${")
    .replace(/(\\*)"/g, '$1$1\\"')
    .replace(/(\\+)$/, "$1$1");
  return `"${quoted}"`;
}

const shell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
