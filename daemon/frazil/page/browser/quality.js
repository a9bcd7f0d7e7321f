// The quality of the session: grades, what is wrong, and what was measured, in histograms and over the session.

import { ask, at, byId, counted, element, grouped, say } from "/static/dom.js";
import { follow } from "/static/live.js";
import { bars, plot } from "/static/plot.js";
import { gradeWords } from "/static/query.js";

const REST_MS = 3000;
const QUANTITIES = {
  defocus_um: { says: "Defocus, µm", digits: 2 },
  resolution_angstrom: { says: "CTF fits to, Å", digits: 1 },
  ice: { says: "Ice, relative thickness", digits: 2 },
  picks: { says: "Picks", digits: 0 },
  junk: { says: "Junk, fraction of the area", digits: 2 },
  precision: { says: "Estimated precision", digits: 2 },
};

let head = -1;
let version = "";
let askedAt = 0;
let again = null;
let qualities = null;

follow((now) => {
  if (version && version !== now.version) location.reload(); // the daemon was upgraded, and its page with it
  version = now.version;
  if (now.standing?.head === head) return;
  head = now.standing?.head;
  clearTimeout(again);
  again = setTimeout(look, Math.max(0, askedAt + REST_MS - Date.now()));
});
addEventListener("resize", () => qualities && drawQuantities());

async function look() {
  askedAt = Date.now();
  try {
    qualities = await ask("/api/qualities");
  } catch (error) {
    say(byId("verdict"), error.message);
    again = setTimeout(look, REST_MS); // no further document may tell of it
    return;
  }
  show();
}

function show() {
  const { grades, categories, unassessed } = qualities;
  const all = grades.good + grades.doubtful + grades.bad;
  const wait = unassessed ? ` ${counted(unassessed, "waits", "wait")} to be assessed.` : "";
  say(byId("verdict"), all ? `${grouped(grades.good)} of ${counted(all, "assessed micrograph")} ${grades.good === 1 ? "is" : "are"} good.${wait}` : `Nothing is assessed as yet.${wait}`);
  const line = (says, count, query, mood) =>
    element(
      "li",
      {},
      element("a", { href: at(`/micrographs?${new URLSearchParams(query)}`), class: mood }, says),
      element("meter", { min: 0, max: Math.max(1, all), value: count, "aria-label": `${says}: ${count} of ${all}` }),
      element("span", { class: "number" }, grouped(count)),
    );
  byId("grades").replaceChildren(...Object.entries(grades).map(([grade, count]) => line(gradeWords({ grade }), count, { grade }, `grade-${grade}`)));
  const wrong = Object.entries(categories).map(([category, count]) => line(category, count, { category }, ""));
  byId("categories").replaceChildren(...(wrong.length ? wrong : [element("li", {}, "Nothing that has a name.")]));
  drawQuantities();
}

function drawQuantities() {
  const place = byId("quantities");
  const { number, at: times, seq, quantities } = qualities;
  const names = Object.keys(QUANTITIES).filter((name) => quantities[name].known);
  if (place.dataset.names !== names.join()) {
    place.dataset.names = names.join();
    const figure = (id, says) => element("figure", { class: "plot", id }, element("figcaption", {}, says));
    place.replaceChildren(...names.flatMap((name) => [figure(`bars-${name}`, QUANTITIES[name].says), figure(`plot-${name}`, `${QUANTITIES[name].says}, by number`)]));
  }
  for (const name of names) {
    const { says, digits } = QUANTITIES[name];
    const { counts, first_bin: low, last_bin: high, middle, lowest, highest, known } = quantities[name];
    bars(byId(`bars-${name}`), counts, { low, high, digits, name: `${says} of ${counted(known, "micrograph")}, ${low.toFixed(digits)} to ${high.toFixed(digits)}` });
    plot(byId(`plot-${name}`), { number, at: times, axis: "number", values: middle, lowest, highest, seq, name: says, bounds: [0, high > 1 ? 1 : Math.max(high, 1e-3)], digits });
  }
}
