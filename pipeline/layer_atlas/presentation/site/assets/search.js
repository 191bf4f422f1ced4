// Search: layers by any part of their names, channels behind a colon or a blank, and channels by number,
// by class or label, and by what is noted on them.
"use strict";

const MOST_FOUND = 12;

// What a text may mean, the likeliest first: [words, note, address].
function meanings(text, place, target) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const [, name, number] = /^(.*)[:\s]\s*(\d+)$/.exec(wanted) || [];
  const found = [
    ...(number ? layersCalled(name.trim(), number) : []),
    ...channelsHere(wanted, place, target),
    ...layersCalled(wanted, ""),
    ...(/^\d+$/.test(wanted) ? layersCalled("", wanted) : []),
    ...channelsNoted(wanted),
    ...channelsNamed(wanted),
    ...channelsProposed(wanted),
  ];
  const addresses = new Set();
  return found.filter(([, , address]) => !addresses.has(address) && addresses.add(address)).slice(0, MOST_FOUND);
}

// Channels with this in their notes or tags, in any layer.
function channelsNoted(wanted) {
  return notes
    .all()
    .map(([place, { note, tags }]) => [place, [note, ...tags].find((text) => text.toLowerCase().includes(wanted))])
    .filter(([place, text]) => text && notes.target(place))
    .map(([place, text]) => {
      const { model, layer, channel } = notes.target(place);
      const words = `${layer.title}:${place.slice(place.lastIndexOf(":") + 1)}`;
      return [words, `noted: ${text}`, route({ model: model.name, layer: layer.name, channel })];
    });
}

// Channels of any layer by the name of their class or their label, once these are there.
function channelsNamed(wanted) {
  const found = [];
  const named = layerAtlas.known("names");
  if (!named) return found;
  for (const model of layerAtlas.known("index").models) {
    for (const layer of model.layers) {
      // The name of a class that has a label is known by either.
      for (const [channel, label, name] of named[layer.folder] || []) {
        if (found.length >= MOST_FOUND) return found;
        if ([label, name].some((text) => text?.toLowerCase().includes(wanted))) {
          const what = name ? `${layer.noun} “${name}”` : layer.noun;
          found.push([label, `${what} of ${layer.title}`, route({ model: model.name, layer: layer.name, channel })]);
        }
      }
    }
  }
  return found;
}

function layersCalled(name, number) {
  const found = [];
  for (const model of layerAtlas.known("index").models) {
    for (const layer of model.layers) {
      const called = [layer.name, layer.title].map((each) => likeness(name, model.name.toLowerCase(), each.toLowerCase()));
      const scores = called.filter((each) => each !== null);
      const score = scores.length ? Math.min(...scores) : null;
      const channel = number ? Number(number) : undefined;
      if (score === null || (number && !holds(layer, channel))) continue;
      const address = route({ model: model.name, layer: layer.name, channel });
      const words = number ? `${layer.title}:${number}` : layer.title;
      found.push([score, [words, number ? model.name : `${model.name} · ${counted(layer.channels, layer.noun)}`, address]]);
    }
  }
  return found.sort((a, b) => a[0] - b[0]).map(([, meaning]) => meaning);
}

// 0 for the very name, more for less of it, null for none of it.
function likeness(name, model, layer) {
  const full = `${model}/${layer}`;
  if (name === "") return 4;
  if (name === layer || name === full) return 0;
  if (layer.endsWith(`.${name}`)) return 1;
  if (layer.startsWith(name)) return 2;
  return full.includes(name) ? 3 : null;
}

// Channels of the layer that is looked at, by number or by the name of a class.
function channelsHere(wanted, place, target) {
  const data = target && target.layer ? layerAtlas.known(`${target.layer.folder}/layer`) : null;
  if (!data) return [];
  const address = (row) => route({ ...place, channel: data.channels[row] });
  const found = [];
  for (let row = 0; row < data.channels.length && found.length < MOST_FOUND; row++) {
    const label = data.labels[row].toLowerCase();
    const exact = String(data.channels[row]) === wanted || label === wanted;
    const named = /[^\d+]/.test(label) && label.includes(wanted);
    if (exact) found.unshift([data.labels[row], `${target.layer.noun} of ${target.layer.title}`, address(row)]);
    else if (named) found.push([data.labels[row], `${target.layer.noun} of ${target.layer.title}`, address(row)]);
  }
  return found;
}

class Search {
  constructor(here) {
    this.here = here;
    this.list = element("ul.found", { id: "found", role: "listbox", "aria-label": "Found", hidden: true });
    this.input = element("input", {
      id: "search",
      type: "search",
      role: "combobox",
      placeholder: "layer, channel, note",
      "aria-label": "Search for layers, channels, classes, labels and notes",
      "aria-expanded": "false",
      "aria-controls": "found",
      "aria-autocomplete": "list",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.look(),
      onkeydown: (event) => this.key(event),
      onfocus: () => {
        this.look();
        // Names of thousands of classes are needed by those alone who search.
        layerAtlas.load("names").then(() => this.input === document.activeElement && this.look());
      },
      onblur: () => this.close(),
    });
    this.box = element("div.search", { role: "search" }, this.input, this.list);
  }

  look() {
    const { place, target } = this.here();
    this.found = meanings(this.input.value, place, target);
    this.chosen = 0;
    this.list.replaceChildren(...this.found.map((meaning, n) => this.option(meaning, n)));
    if (this.input.value.trim() && !this.found.length) {
      this.list.append(element("li.none", { role: "option", "aria-disabled": "true", "aria-selected": "false" }, "nothing of that name"));
    }
    this.list.hidden = !this.list.children.length;
    this.input.setAttribute("aria-expanded", String(!this.list.hidden));
    this.mark();
  }

  option([words, note, address], n) {
    return element(
      "li",
      {
        id: `found-${n}`,
        role: "option",
        onmousedown: (event) => {
          event.preventDefault();
          this.go(address);
        },
      },
      element("span", {}, words),
      element("span.quiet", {}, note),
    );
  }

  mark() {
    [...this.list.children].forEach((each, n) => each.setAttribute("aria-selected", String(n === this.chosen)));
    if (this.found.length) {
      this.input.setAttribute("aria-activedescendant", `found-${this.chosen}`);
      this.list.children[this.chosen].scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.found?.length) {
      this.chosen = (this.chosen + step + this.found.length) % this.found.length;
      this.mark();
    } else if (event.key === "Enter" && this.found?.length) this.go(this.found[this.chosen][2]);
    else if (event.key === "Escape") {
      this.input.value = "";
      this.input.blur();
      document.getElementById("main").focus({ preventScroll: true });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  go(address) {
    this.input.value = "";
    this.input.blur();
    location.assign(address);
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}
