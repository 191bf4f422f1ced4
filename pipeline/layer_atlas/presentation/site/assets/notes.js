// Notes, tags and favourites of channels: those of the site, and a reader's own, kept in the browser.
"use strict";

const NOTES_SCHEMA = "layer-atlas-notes/1";
const LONGEST_NOTE = 10000;
const LONGEST_TAG = 60;

// A place is model/layer:channel, as in files of labels.
const notes = (() => {
  const NOTHING = { note: "", tags: [], favourite: false };
  let kept = null;
  let isKept = true;

  const key = () => `notes-${layerAtlas.known("index").identity}`;
  const baked = () => layerAtlas.known("index").notes;
  const place = (data, row) => `${data.place}:${data.labels[row].split(" ")[0]}`;

  function own() {
    if (!kept) {
      try {
        kept = valid(JSON.parse(remembered(key()) || "{}"));
      } catch {
        kept = new Map();
      }
    }
    return kept;
  }

  const of = (place) => own().get(place) || (Object.hasOwn(baked(), place) ? baked()[place] : NOTHING);

  function set(place, changes) {
    own().set(place, { ...of(place), ...changes });
    save();
  }

  function save() {
    isKept = remember(key(), JSON.stringify(Object.fromEntries(own())));
  }

  // What has the form of notes, by place: a file may hold anything.
  function valid(found) {
    return new Map(
      Object.entries(found).map(([place, { note = "", tags = [], favourite = false }]) => [
        place,
        { note: String(note).slice(0, LONGEST_NOTE), tags: [...tags].map(String).map(trimmed).filter(Boolean), favourite: favourite === true },
      ]),
    );
  }

  const trimmed = (tag) => tag.trim().slice(0, LONGEST_TAG);
  const isSaid = ({ note, tags, favourite }) => Boolean(note || tags.length || favourite);

  // All notes that say something, in the order of their places.
  function all() {
    const places = new Set([...Object.keys(baked()), ...own().keys()]);
    return [...places].sort().map((place) => [place, of(place)]).filter(([, each]) => isSaid(each));
  }

  // Those of a layer, by row.
  function here(data) {
    return data.labels.map((_, row) => [row, of(place(data, row))]).filter(([, each]) => isSaid(each));
  }

  const tags = (entries) => [...new Set(entries.flatMap(([, each]) => each.tags))].sort();

  function isMarked({ note, tags, favourite }, mark) {
    if (mark.startsWith("tag:")) return tags.includes(mark.slice(4));
    return mark === "favourite" ? favourite : Boolean(note);
  }

  // The layer and the channel of a place; null where the atlas has none such.
  function target(place) {
    const cut = place.lastIndexOf(":");
    for (const model of layerAtlas.known("index").models) {
      const layer = model.layers.find((each) => `${model.name}/${each.name}` === place.slice(0, cut));
      // Combinations have another number in addresses: then the layer has to do.
      const number = place.slice(cut + 1);
      if (layer) return { model, layer, channel: /^\d+$/.test(number) ? Number(number) : undefined };
    }
    return null;
  }

  function exported() {
    const { title, identity } = layerAtlas.known("index");
    const about = { schema: NOTES_SCHEMA, atlas: identity, title, exported: new Date().toISOString() };
    return JSON.stringify({ ...about, notes: Object.fromEntries(all()) }, null, 1);
  }

  // Returns what is to be said of it.
  function take(text) {
    let found;
    try {
      const file = JSON.parse(text);
      if (file.schema !== NOTES_SCHEMA) throw new Error();
      found = [...valid(file.notes)];
    } catch {
      return "This is no file of notes that a site exported.";
    }
    const known = found.filter(([place]) => target(place));
    for (const [place, each] of known) own().set(place, each);
    save();
    const left = found.length - known.length;
    return `Took in ${counted(known.length, "note")}${left ? `, and none of ${left} on layers that are not here` : ""}.`;
  }

  // Another window of this browser may write too.
  addEventListener("storage", () => (kept = null));

  return { place, of, set, all, here, tags, isMarked, target, exported, take, isKept: () => isKept };
})();

// Signs of what is noted on a channel, for its tile.
function noteMarks(data, row) {
  const { note, tags, favourite } = notes.of(notes.place(data, row));
  const signs = [favourite ? "★" : "", note || tags.length ? "✎" : ""].join("");
  if (!signs) return null;
  const words = [favourite ? "favourite" : "", note ? "noted" : "", ...tags].filter(Boolean).join(", ");
  return element("span.marks", { title: note || words }, element("span", { "aria-hidden": "true" }, signs), element("span.unseen", {}, words));
}

// The notes on a channel, to read and to write.
function notesSection(data, row) {
  const place = notes.place(data, row);
  const { note, tags, favourite } = notes.of(place);
  const status = element("p.note", { role: "status" }, keptWords());
  const change = (changes) => {
    notes.set(place, changes);
    status.textContent = keptWords();
  };
  const star = element(
    "button.star",
    {
      type: "button",
      id: "favourite",
      "aria-pressed": String(favourite),
      title: "Favourite (f)",
      onclick: () => {
        const pressed = star.getAttribute("aria-pressed") !== "true";
        star.setAttribute("aria-pressed", String(pressed));
        change({ favourite: pressed });
      },
    },
    "Favourite",
  );
  const list = element("datalist", { id: "tags-known" }, ...notes.tags(notes.all()).map((value) => element("option", { value })));
  const tagged = element("input", {
    type: "text",
    id: "tags",
    list: "tags-known",
    value: tags.join(", "),
    placeholder: "comma between them",
    oninput: () => change({ tags: [...new Set(tagged.value.split(",").map((tag) => tag.trim().slice(0, LONGEST_TAG)).filter(Boolean))] }),
  });
  const text = element("textarea", { id: "note", rows: 3, placeholder: "what it may stand for", maxlength: LONGEST_NOTE, oninput: () => change({ note: text.value }) });
  text.value = note;
  return element(
    "section.notes",
    {},
    element("h2", {}, "Notes"),
    star,
    element("label", { for: "tags" }, "Tags"),
    tagged,
    list,
    element("label", { for: "note" }, "Note"),
    text,
    status,
    notesTools(status),
  );
}

function keptWords() {
  const count = counted(notes.all().length, "channel");
  return notes.isKept()
    ? `Kept in this browser alone; notes on ${count} in all.`
    : "This browser keeps nothing for pages from disk: export the notes before you close this page.";
}

// Files out and in; what became of a file is said in a status line.
function notesTools(status) {
  const file = element("input", {
    type: "file",
    accept: ".json",
    hidden: true,
    id: "notes-file",
    onchange: async () => {
      const [chosen] = file.files;
      if (!chosen) return;
      const words = notes.take(await chosen.text());
      await show();
      const line = document.querySelector(".notes [role=status]") || status;
      line.textContent = words;
    },
  });
  const save = () => saveFile(`${layerAtlas.known("index").title}-notes.json`, "application/json", notes.exported());
  return element(
    "p.actions",
    {},
    element("button", { type: "button", id: "export-notes", onclick: save }, "Export all notes"),
    element("button", { type: "button", id: "import-notes", onclick: () => file.click() }, "Import"),
    file,
  );
}

// Hand a text to the reader as a file, which needs no server.
function saveFile(name, type, text) {
  const href = URL.createObjectURL(new Blob([text], { type }));
  const link = element("a", { href, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}
