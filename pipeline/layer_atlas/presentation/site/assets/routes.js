// Every view has an address: #/model/layer:channel?sort=activation&seed=1, and with open=top1.crop the
// image that is enlarged on it.
"use strict";

// Half of a pair of code units has no address; a name that holds one is known by its rest.
const wellFormed = (name) => (name.toWellFormed ? name.toWellFormed() : name);
const encoded = (name) => encodeURIComponent(wellFormed(name));

function route({ model, layer, channel, options = {}, open }) {
  let path = "#/";
  if (model !== undefined) path += encoded(model);
  if (layer !== undefined) path += `/${encoded(layer)}`;
  if (channel !== undefined) path += `:${channel}`;
  const query = new URLSearchParams(Object.entries({ ...options, open }).filter(([, value]) => value)).toString();
  return query ? `${path}?${query}` : path;
}

// What an address means; null for one that is none.
function parsed(hash) {
  const [path, query = ""] = hash.replace(/^#?\/?/, "").split("?");
  const { open, ...options } = Object.fromEntries(new URLSearchParams(query));
  const [model, rest, ...more] = path.split("/");
  if (more.length) return null;
  try {
    const place = { options, ...(open ? { open } : {}) };
    if (model) place.model = decodeURIComponent(model);
    if (rest) {
      const [layer, channel, ...further] = rest.split(":");
      if (further.length || (channel !== undefined && !/^\d+$/.test(channel))) return null;
      place.layer = decodeURIComponent(layer);
      if (channel !== undefined) place.channel = Number(channel);
    }
    return place;
  } catch {
    return null;
  }
}

// The model, layer and data that an address names; null where there is no such thing.
function found(place) {
  const index = layerAtlas.known("index");
  if (!place) return null;
  if (place.model === undefined) return {};
  const model = index.models.find((each) => wellFormed(each.name) === place.model);
  if (!model || place.layer === undefined) return model ? { model } : null;
  const layer = model.layers.find((each) => wellFormed(each.name) === place.layer);
  return layer ? { model, layer } : null;
}
