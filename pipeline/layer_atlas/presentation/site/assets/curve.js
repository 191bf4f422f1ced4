// The ascent curve of an image, among those of the channel's other seeds.
"use strict";

const CURVE = { width: 320, height: 120, left: 2, right: 40, top: 8, bottom: 18 };

function curve(steps, traces, chosen) {
  const values = traces.flat().filter((value) => value !== null);
  if (steps.length < 2 || !values.length) return null;
  const { x, y, low } = scales(steps, values);
  const line = (trace) =>
    trace
      .map((value, place) => (value === null ? "" : `${x(steps[place])},${y(value)}`))
      .filter(Boolean)
      .join(" ");
  const own = traces[chosen];
  const made = own.map((value, place) => ({ value, step: steps[place] })).filter(({ value }) => value !== null);
  const said = made.length
    ? `from ${brief(made[0].value)} at step ${made[0].step} to ${brief(made.at(-1).value)} at step ${made.at(-1).step}`
    : "none of this seed";
  const rest = traces.filter((_, place) => place !== chosen);
  return drawn(
    "svg",
    {
      viewBox: `0 0 ${CURVE.width} ${CURVE.height}`,
      class: "curve",
      role: "img",
      "aria-label": `Objective during ascent: ${said}`,
    },
    drawn("line", { x1: x(steps[0]), x2: x(steps.at(-1)), y1: y(low), y2: y(low), class: "axis" }),
    ...rest.map((trace) => drawn("polyline", { points: line(trace), class: "other" })),
    drawn("polyline", { points: line(own), class: "own" }),
    words(x(steps[0]), CURVE.height - 3, "start", `step ${steps[0]}`),
    words(x(steps.at(-1)), CURVE.height - 3, "end", String(steps.at(-1))),
    made.length ? words(CURVE.width - CURVE.right + 5, y(made.at(-1).value) + 4, "start", brief(made.at(-1).value)) : "",
  );
}

// From steps and values to places; the axis is at 0, or at the least value if that is below.
function scales(steps, values) {
  const { width, height, left, right, top, bottom } = CURVE;
  const low = Math.min(0, ...values);
  const high = Math.max(...values, low + 1e-9);
  const [first, last] = [steps[0], steps.at(-1)];
  const rounded = (place) => Math.round(10 * place) / 10;
  return {
    low,
    x: (step) => rounded(left + ((step - first) / (last - first)) * (width - left - right)),
    y: (value) => rounded(top + (1 - (value - low) / (high - low)) * (height - top - bottom)),
  };
}

const words = (x, y, anchor, text) => drawn("text", { x, y, "text-anchor": anchor }, text);
