// The ascent curve of an image, among those of the channel's other seeds.
"use strict";

function curve(steps, traces, chosen) {
  const [width, height, left, bottom] = [320, 120, 4, 16];
  const values = traces.flat().filter((value) => value !== null);
  if (steps.length < 2 || !values.length) return null;
  const low = Math.min(0, ...values);
  const high = Math.max(...values, low + 1e-9);
  const x = (step) => left + ((step - steps[0]) / (steps.at(-1) - steps[0])) * (width - 2 * left);
  const y = (value) => 6 + (1 - (value - low) / (high - low)) * (height - bottom - 12);
  const line = (trace) =>
    trace
      .map((value, place) => (value === null ? null : `${x(steps[place]).toFixed(1)},${y(value).toFixed(1)}`))
      .filter(Boolean)
      .join(" ");
  const last = traces[chosen].at(-1);
  const text = (at, anchor, words) =>
    drawn("text", { x: at[0], y: at[1], "text-anchor": anchor }, words);
  return drawn(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      class: "curve",
      role: "img",
      "aria-label": `Objective during ascent: from ${brief(traces[chosen][0])} to ${brief(last)} in ${steps.at(-1)} steps`,
    },
    drawn("line", { x1: left, x2: width - left, y1: y(low), y2: y(low), class: "axis" }),
    ...traces
      .map((trace, place) => [place, trace])
      .filter(([place]) => place !== chosen)
      .map(([, trace]) => drawn("polyline", { points: line(trace), class: "other" })),
    drawn("polyline", { points: line(traces[chosen]), class: "own" }),
    text([left, height - 3], "start", `step ${steps[0]}`),
    text([width - left, height - 3], "end", `${steps.at(-1)}`),
    text([width - left, y(last ?? high) + (y(last ?? high) < 24 ? 14 : -5)], "end", brief(last)),
  );
}
