// What keys do.
"use strict";

const KEYS = [
  ["/", "search; layer3.0.conv1:17 goes to channel 17"],
  ["← → ↑ ↓", "from tile to tile; from channel to channel"],
  ["Enter", "open what has the focus"],
  ["Escape", "back: channel, layer, model, atlas"],
  ["Home End", "first and last tile"],
  ["+ − 0", "on a map or an image: closer, farther, the whole"],
  ["PageUp PageDown", "in an enlarged image: previous, next"],
  ["t", "dark, light, or as the system has it"],
  ["?", "this help"],
];

function helpDialog() {
  const dialog = element(
    "dialog.help",
    { id: "help", "aria-labelledby": "help-title" },
    element("h2", { id: "help-title" }, "Keys"),
    element(
      "dl",
      {},
      ...KEYS.flatMap(([keys, words]) => [
        element("dt", {}, ...keys.split(" ").map((key) => element("kbd", {}, key))),
        element("dd", {}, words),
      ]),
    ),
    element("button", { type: "button", onclick: () => dialog.close() }, "Close"),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  return dialog;
}
