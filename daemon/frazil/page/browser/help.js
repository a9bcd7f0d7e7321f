// The card that says what keys do.

import { byId, element } from "/static/dom.js";

/** Whether a key is meant for the page, and not for a field or a dialog. */
export function isForPage(event) {
  const typed = event.target.closest?.("input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, select, dialog");
  return !typed && !event.ctrlKey && !event.metaKey && !event.altKey;
}

/** Shows the card on `?` and on the button in the page's head. */
export function offerHelp(keys) {
  const dialog = element(
    "dialog",
    { class: "help", "aria-labelledby": "help-title" },
    element("h2", { id: "help-title" }, "Keys"),
    element(
      "dl",
      { class: "keys" },
      ...keys.map(([names, says]) => element("div", {}, element("dt", {}, ...names.split(" ").flatMap((name) => [element("kbd", {}, name), " "])), element("dd", {}, says))),
    ),
    element("form", { method: "dialog" }, element("button", { autofocus: true }, "Close")),
  );
  document.body.append(dialog);
  byId("help").hidden = false;
  byId("help").addEventListener("click", () => dialog.showModal());
  addEventListener("keydown", (event) => {
    if (event.key !== "?" || !isForPage(event)) return;
    event.preventDefault();
    dialog.showModal();
  });
}
