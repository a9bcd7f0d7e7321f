// The list of all micrographs: one page at a time, out of any number.

import { ask, at, byId, clock, decimals, element, grouped, micrographLink, say, STATES } from "/static/dom.js";
import { follow } from "/static/live.js";

const form = byId("search");
let head = null;
let pending = null;

function wanted() {
  const params = new URLSearchParams(location.search);
  return { search: params.get("search") ?? "", states: params.get("states") ?? "", offset: Math.max(0, Number(params.get("offset")) || 0) };
}

function go(changes) {
  const params = new URLSearchParams(Object.entries({ ...wanted(), ...changes }).filter(([, value]) => value));
  history.pushState(null, "", at(params.size ? `/micrographs?${params}` : "/micrographs"));
  load();
}

function fillForm() {
  const { search, states } = wanted();
  form.elements.search.value = search;
  for (const box of form.querySelectorAll("[name=states]")) box.checked = states.split(",").includes(box.value);
}

async function load() {
  const asked = new URLSearchParams(wanted());
  pending = asked.toString();
  try {
    const found = await ask(`/api/micrographs?${asked}`);
    if (pending === asked.toString()) show(found);
  } catch (error) {
    say(byId("count"), error.message);
  }
}

function show({ count, offset, rows }) {
  const all = count === 1 ? "One micrograph" : `${grouped(count)} micrographs`;
  say(byId("count"), rows.length ? `${grouped(offset + 1)} to ${grouped(offset + rows.length)} of ${all.toLowerCase()}` : count ? `${all}, none on this page` : "No micrograph");
  byId("rows").replaceChildren(
    ...rows.map((row) =>
      element(
        "tr",
        { class: row.state },
        element("th", { scope: "row" }, element("a", { href: micrographLink(row.path) }, row.path)),
        element("td", {}, `${STATES[row.state]}${row.reason ? ` (${row.reason})` : ""}`),
        element("td", { class: "number" }, row.picks ?? "–"),
        element("td", { class: "number" }, decimals(row.score, 2)),
        element("td", {}, clock(row.at)),
      ),
    ),
  );
  const last = Math.max(0, Math.ceil(count / 100) * 100 - 100);
  const step = (says, to, possible) => element("button", { type: "button", disabled: !possible, onclick: () => go({ offset: to }) }, says);
  byId("pages").replaceChildren(
    ...(count > 100
      ? [
          step("« First", 0, offset > 0),
          step("‹ Before", Math.max(0, offset - 100), offset > 0),
          step("Next ›", offset + 100, offset + 100 < count),
          step("Last »", last, offset < last),
        ]
      : []),
  );
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const states = [...form.querySelectorAll("[name=states]:checked")].map((box) => box.value).join(",");
  go({ search: form.elements.search.value, states, offset: 0 });
});
form.addEventListener("change", (event) => event.target.name === "states" && form.requestSubmit());
addEventListener("popstate", () => {
  fillForm();
  load();
});

fillForm();
load();
follow((now) => {
  const newest = JSON.stringify([now.standing?.head, now.standing?.counts]);
  // The first page shows what comes; on a later one rows would move under the reader's eyes.
  if (head !== null && newest !== head && wanted().offset === 0) load();
  head = newest;
});
