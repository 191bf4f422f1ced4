// Calls whose arguments do not fit the function that they call: `node --expose-internals calls.cjs FILE...`
// prints one line for each. Node brings its own parser of JavaScript.
"use strict";

const { readFileSync } = require("node:fs");
const { basename } = require("node:path");
const { parse } = require("internal/deps/acorn/acorn/dist/acorn");
const { ancestor, full } = require("internal/deps/acorn/acorn-walk/dist/walk");

const isFunction = (node) => /Function/.test(node?.type ?? "");

// Fewest and most arguments of a function.
function arity({ params }) {
  const optional = params.findIndex((each) => ["AssignmentPattern", "RestElement"].includes(each.type));
  const rest = params.at(-1)?.type === "RestElement";
  return [optional < 0 ? params.length : optional, rest ? Infinity : params.length];
}

// Functions by the name by which they are called: `part`, `sheets.ready`, `this.tile`, `Wall.wanted`, `new Wall`.
function defined(tree) {
  const found = new Map();
  const add = (name, node) => found.set(name, [...(found.get(name) ?? []), arity(node)]);
  ancestor(tree, {
    FunctionDeclaration: (node) => add(node.id.name, node),
    VariableDeclarator(node) {
      if (isFunction(node.init)) add(node.id.name, node.init);
      else if (isFunction(node.init?.callee)) addMembers(node.id.name, node.init.callee);
    },
    MethodDefinition(node, ancestors) {
      const { name } = ancestors.findLast((each) => each.type === "ClassDeclaration").id;
      if (node.kind === "constructor") add(`new ${name}`, node.value);
      else add(`${node.static ? name : "this"}.${node.key.name}`, node.value);
    },
  });
  // What a function that is called at once returns, as `const sheets = (() => { ... return { ready } })()`.
  function addMembers(owner, { body }) {
    const own = defined(body);
    const returned = body.body.findLast((each) => each.type === "ReturnStatement").argument;
    for (const { key } of returned.properties) {
      for (const each of own.get(key.name) ?? []) found.set(`${owner}.${key.name}`, [each]);
    }
  }
  return found;
}

function called({ type, callee }) {
  if (type === "NewExpression") return `new ${callee.name}`;
  if (callee.type === "Identifier") return callee.name;
  const owner = callee.object?.type === "ThisExpression" ? "this" : callee.object?.name;
  return owner === "wall" ? `this.${callee.property.name}` : `${owner}.${callee.property?.name}`;
}

const files = process.argv.slice(2).map((file) => {
  const text = readFileSync(file, "utf8");
  return { name: basename(file), tree: parse(text, { ecmaVersion: "latest", locations: true }) };
});
const functions = new Map();
for (const { tree } of files) {
  for (const [name, known] of defined(tree)) functions.set(name, [...(functions.get(name) ?? []), ...known]);
}
let checked = 0;
for (const { name: file, tree } of files) {
  full(tree, (node) => {
    const known = ["CallExpression", "NewExpression"].includes(node.type) && functions.get(called(node));
    if (!known || node.arguments.some((each) => each.type === "SpreadElement")) return;
    checked++;
    const given = node.arguments.length;
    if (known.some(([least, most]) => given >= least && given <= most)) return;
    const takes = known.map(([least, most]) => (least === most ? least : `${least} to ${most}`)).join(" or ");
    console.log(`${file}:${node.loc.start.line}: ${called(node)} takes ${takes}, not ${given}`);
  });
}
console.error(checked);
