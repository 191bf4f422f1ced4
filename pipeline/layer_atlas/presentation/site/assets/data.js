// Data comes as scripts that hand it over: pages from disk may load nothing else.
"use strict";

const layerAtlas = (() => {
  const folder = document.querySelector('meta[name="layer-atlas-site"]').content;
  const taken = new Map();
  const asked = new Map();

  function take(name, value) {
    taken.set(name, value);
    const request = asked.get(name);
    if (request) request.resolve(value);
  }

  // The value of this name, as a promise; its script is run once.
  function load(name) {
    if (taken.has(name)) return Promise.resolve(taken.get(name));
    if (!asked.has(name)) asked.set(name, ask(name));
    return asked.get(name).promise;
  }

  function ask(name) {
    const request = {};
    request.promise = new Promise((resolve, reject) => Object.assign(request, { resolve, reject }));
    const script = document.createElement("script");
    script.src = address(`${name}.js`);
    script.onerror = () => {
      asked.delete(name);
      request.reject(new Error(`${script.src} cannot be read`));
    };
    document.head.append(script);
    return request;
  }

  const address = (name) => `${folder}/${name.split("/").map(encodeURIComponent).join("/")}`;
  const known = (name) => taken.get(name);
  return { take, load, known, address };
})();
