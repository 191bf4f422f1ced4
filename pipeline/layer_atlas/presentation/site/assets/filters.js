// Filters of a grid: bounds on a statistic, on a histogram of its values.
"use strict";

const HISTOGRAM = { width: 150, height: 30, bins: 25 };
const LONG_TAIL = 30;
const CLICK = 0.02;

// Names for a list to choose from: a constant orders nothing, and stays where it is chosen already.
const statisticEntries = (data, chosen = "") =>
  data.statistics
    .filter((each) => !isConstant(data, each) || each.name === chosen)
    .map(({ name }) => [name, worded(name)]);

// What the statistics mean that order and filter the grid; a finger has no tooltip.
function meaningsOf(data, options) {
  const names = new Set([options.sort, ...filters(options).map(({ name }) => name)]);
  return data.statistics
    .filter(({ name, meaning }) => names.has(name) && meaning)
    .map(({ name, meaning }) => element("p.note", {}, `${worded(name)}: ${meaning}`));
}

function filterBox(filter, n, data, options, go) {
  const change = (changes) => {
    const list = filters(options);
    if (changes) Object.assign(list[n], changes);
    else list.splice(n, 1);
    go({ where: written(list) });
  };
  const bound = (key, words) =>
    element("input", {
      type: "number",
      step: "any",
      value: filter[key],
      placeholder: words,
      "aria-label": `${worded(filter.name)}, ${words}`,
      onchange: (event) => change({ [key]: event.target.value }),
    });
  return element(
    "span.filter",
    { role: "group", "aria-label": `Filter by ${worded(filter.name)}` },
    element("span.quiet", {}, worded(filter.name)),
    histogram(filter, column(data, filter.name, options) || [], change),
    bound("least", "least"),
    element("span", { "aria-hidden": "true" }, "–"),
    bound("most", "most"),
    element(
      "button.plain",
      { type: "button", "aria-label": `Remove the filter by ${worded(filter.name)}`, onclick: () => change(null) },
      "×",
    ),
  );
}

// Numbers of values side by side; dragging over it sets both bounds.
function histogram(filter, column, change) {
  const values = column.filter((value) => value !== null);
  const scale = alongRange(values);
  if (!scale) return null;
  const { width, height, bins } = HISTOGRAM;
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor(scale.at(value) * bins))]++;
  const most = Math.max(...counts);
  const step = width / bins;
  const bars = counts.map((count, bin) => {
    const tall = count ? Math.max(1, (height * count) / most) : 0;
    const from = scale.value(bin / bins);
    const to = scale.value((bin + 1) / bins);
    const isIn = (filter.least === "" || to >= Number(filter.least)) && (filter.most === "" || from <= Number(filter.most));
    return drawn("rect", { x: bin * step, y: height - tall, width: step - 1, height: tall, class: isIn ? "in" : "out" });
  });
  const brush = drawn("rect", { class: "brush", y: 0, height, x: 0, width: 0 });
  const bounds = [filter.least, filter.most]
    .filter((text) => text !== "")
    .map((text) => Math.min(1, Math.max(0, scale.at(Number(text)))) * width)
    .map((x) => drawn("line", { class: "bound", x1: x, x2: x, y1: 0, y2: height }));
  const [low, high] = scale.ends;
  const words = `Histogram of ${counted(values.length, "value")}, ${brief(low)} to ${brief(high)}; drag over it to set the bounds`;
  const made = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: "histogram", role: "img", "aria-label": words });
  made.append(drawn("title", {}, words), ...bars, brush, ...bounds);
  return brushed(made, brush, ([from, to]) => {
    if (to - from < CLICK) return;
    const text = (fraction, end) => (fraction === end ? "" : String(Number(scale.value(fraction).toPrecision(3))));
    change({ least: text(from, 0), most: text(to, 1) });
  });
}

// Calls `done` with two fractions of the width, in order, between which a pointer was dragged.
function brushed(made, brush, done) {
  let start = null;
  const at = (event) => {
    const { left, width } = made.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - left) / width));
  };
  const range = (event) => [start, at(event)].sort((a, b) => a - b);
  const draw = ([from, to]) => {
    brush.setAttribute("x", from * HISTOGRAM.width);
    brush.setAttribute("width", (to - from) * HISTOGRAM.width);
  };
  made.addEventListener("pointerdown", (event) => {
    made.setPointerCapture(event.pointerId);
    start = at(event);
  });
  made.addEventListener("pointermove", (event) => start !== null && draw(range(event)));
  made.addEventListener("pointerup", (event) => {
    if (start === null) return;
    const chosen = range(event);
    start = null;
    draw([0, 0]);
    done(chosen);
  });
  made.addEventListener("pointercancel", () => (start = null));
  return made;
}

// Where values lie between the smallest (0) and the largest (1), by logarithms where few are far above
// the rest; null where all are equal.
function alongRange(values) {
  const sorted = Float64Array.from(values).sort();
  const [low, high] = [sorted[0], sorted[sorted.length - 1]];
  if (!(low < high)) return null;
  const isLong = low > 0 && high / sorted[sorted.length >> 1] > LONG_TAIL;
  const [by, back] = isLong ? [Math.log, Math.exp] : [(x) => x, (x) => x];
  const [from, to] = [by(low), by(high)];
  // Halves, as the difference of two large numbers may be infinite.
  const at = (value) => (by(value) / 2 - from / 2) / (to / 2 - from / 2);
  return { at, value: (fraction) => back(from * (1 - fraction) + to * fraction), ends: [low, high] };
}
