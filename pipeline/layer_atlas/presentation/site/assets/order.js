// Which channels are shown, and in which order.
"use strict";

const seedOf = (data, row, options) => {
  const index = data.seeds.indexOf(Number(options.seed));
  return options.seed !== undefined && index >= 0 ? index : data.lead[row];
};

const variantOf = (data, options) => Math.max(0, data.variants.indexOf(options.variant));

// One number per channel: of the image that is shown of it.
function column(data, name, options) {
  const statistic = data.statistics.find((each) => each.name === name);
  if (!statistic) return null;
  const { values, axes } = statistic;
  if (!axes) return values;
  const variants = axes > 1 ? data.variants.length : 1;
  const variant = axes > 1 ? variantOf(data, options) : 0;
  const seeds = data.seeds.length;
  return data.channels.map((_, row) => values[(row * seeds + seedOf(data, row, options)) * variants + variant]);
}

const fate = (data, row, options) => data.status[row * data.seeds.length + seedOf(data, row, options)];

// Filters are written as statistic:least:most, one after the other, with `;` between.
function filters(options) {
  return (options.where || "")
    .split(";")
    .filter(Boolean)
    .map((text) => {
      const [name, least = "", most = ""] = text.split(":");
      return { name, least, most };
    });
}

const written = (list) =>
  list.map(({ name, least, most }) => `${name}:${least}:${most}`).join(";");

// Rows of channels, as the options have it; those without a value come last.
function ordered(data, options) {
  let rows = data.channels.map((_, row) => row);
  if (options.fate) rows = rows.filter((row) => fate(data, row, options) === options.fate);
  if (options.mark) rows = rows.filter((row) => notes.isMarked(notes.of(notes.place(data, row)), options.mark));
  for (const { name, least, most } of filters(options)) {
    const values = column(data, name, options);
    if (values) rows = rows.filter((row) => within(values[row], least, most));
  }
  const values = options.sort ? column(data, options.sort, options) : null;
  const sign = options.up ? 1 : -1;
  if (!values) return options.up ? rows.reverse() : rows;
  return rows.sort((a, b) => compared(values[a], values[b], sign) || a - b);
}

function compared(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (a - b);
}

function within(value, least, most) {
  if (least === "" && most === "") return true;
  if (value === null) return false;
  return (least === "" || value >= Number(least)) && (most === "" || value <= Number(most));
}
