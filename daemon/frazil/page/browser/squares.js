// The grid as a map by stage position, and its squares in the order in which they promise most.

import { ask, at, byId, counted, decimals, drawing, element, grouped, say } from "/static/dom.js";
import { follow } from "/static/live.js";

const REST_MS = 3000;
const SQUARE_UM = 60;
const FIGURES = {
  expected: { says: "what the next micrograph promises", digits: 0, value: (one) => one.expected },
  particles_each: { says: "particles of a micrograph, so far", digits: 0, value: (one) => one.particles_each },
  good_fraction: { says: "share of good micrographs", digits: 2, value: (one) => one.good_fraction, low: 0, high: 1 },
  ice: { says: "ice, relative thickness", digits: 2, value: (one) => one.ice },
  resolution_angstrom: { says: "CTF fits to, Å", digits: 1, value: (one) => one.resolution_angstrom },
  micrographs: { says: "micrographs", digits: 0, value: (one) => one.micrographs },
};
// The lower end is drawn darker; those of viridis, which people with any colour vision tell apart.
const COLOURS = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"];

let head = -1;
let version = "";
let askedAt = 0;
let again = null;
let shown = null;
let chosen = null;
let holes = [];

const figure = byId("figure");
figure.append(...Object.entries(FIGURES).map(([value, { says }]) => element("option", { value }, says)));
figure.value = new URLSearchParams(location.search).get("figure") ?? "expected";
if (!FIGURES[figure.value]) figure.value = "expected";
figure.addEventListener("change", () => {
  const address = new URL(location.href);
  address.searchParams.set("figure", figure.value);
  history.replaceState(null, "", address);
  drawMap();
  drawHoles();
});

follow((now) => {
  if (version && version !== now.version) location.reload(); // the daemon was upgraded, and its page with it
  version = now.version;
  if (now.standing?.head === head) return;
  head = now.standing?.head;
  clearTimeout(again);
  again = setTimeout(look, Math.max(0, askedAt + REST_MS - Date.now()));
});

async function look() {
  askedAt = Date.now();
  try {
    shown = await ask("/api/squares");
  } catch (error) {
    say(byId("verdict"), error.message);
    return;
  }
  show();
}

function key({ grid, square }) {
  return `${grid}\n${square}`;
}

function show() {
  const { squares, unplaced, hindsight } = shown;
  byId("board").hidden = !squares.length;
  const lost = unplaced ? ` Of ${counted(unplaced, "other micrograph")} no square is known.` : "";
  if (!squares.length) {
    say(byId("verdict"), unplaced ? "Where the micrographs were taken is not known. The setting grid_metadata names the directory of EPU’s session, or of SerialEM’s mdocs." : "Nothing is assessed as yet.");
    return;
  }
  const best = squares[0];
  const promise = best.expected === null ? "Three squares are needed to say which promises most." : `${best.square} promises most: ${grouped(Math.round(best.expected))} ± ${grouped(Math.round(best.error))} particles in its next micrograph.`;
  say(byId("verdict"), `${counted(squares.length, "square")} so far. ${promise}${lost}`);
  say(
    byId("hindsight"),
    hindsight
      ? `In hindsight: the order after half of the micrographs agrees with what came after, in ${counted(hindsight.squares, "square")}, by a rank correlation of ${hindsight.correlation.toFixed(2)} (1: wholly, 0: as chance would).`
      : "Whether the order holds is not known as yet.",
  );
  const wanted = JSON.stringify(squares);
  const body = byId("ranking");
  if (body.dataset.shown !== wanted) {
    body.dataset.shown = wanted;
    body.replaceChildren(...squares.map(line));
  }
  drawMap();
}

function line(one) {
  const says = one.grid ? `${one.grid} / ${one.square}` : one.square;
  const skip = one.skip ? element("span", { class: "badge badge-over", title: one.skip }, "skip?") : null;
  return element(
    "tr",
    { "data-square": key(one) },
    element("th", { scope: "row" }, element("a", { href: listOf(one) }, says), " ", skip),
    ...[
      one.expected === null ? "–" : `${grouped(Math.round(one.expected))} ± ${grouped(Math.round(one.error))}`,
      `${grouped(Math.round(one.particles_each))} × ${grouped(one.micrographs)}`,
      `${Math.round(100 * one.good_fraction)} %`,
      decimals(one.ice, 2),
      decimals(one.resolution_angstrom, 1),
    ].map((text) => element("td", { class: "number" }, text)),
  );
}

function listOf({ square }) {
  return at(`/micrographs?${new URLSearchParams({ square, sort: "picks", order: "down" })}`);
}

// --- the map -----------------------------------------------------------------------------------------------------------

function rangeOf({ value, low, high }, ones) {
  const known = ones.map(value).filter((one) => one !== null);
  const first = low ?? Math.min(...known);
  const last = high ?? Math.max(...known);
  return known.length ? [first, last > first ? last : first + 1] : [0, 1];
}

function colour(value, [low, high]) {
  if (value === null) return "none";
  const place = Math.max(0, Math.min(1, (value - low) / (high - low)));
  return COLOURS[Math.round(place * (COLOURS.length - 1))];
}

function drawMap() {
  const placed = shown.squares.filter(({ stage_um }) => stage_um);
  const map = byId("map");
  if (!placed.length) {
    map.replaceChildren(element("p", { class: "note" }, "The stage positions of these squares are not known; the table has them all."));
    say(byId("scale"), "");
    return;
  }
  const picked = FIGURES[figure.value];
  const range = rangeOf(picked, shown.squares);
  const [x, y] = [0, 1].map((axis) => placed.map(({ stage_um }) => stage_um[axis]));
  const side = sideOf(placed);
  const box = [Math.min(...x) - side, Math.min(...y.map((one) => -one)) - side, Math.max(...x) - Math.min(...x) + 2 * side, Math.max(...y) - Math.min(...y) + 2 * side];
  // Stage y grows upwards, as on the microscope's own atlas.
  const squares = placed.map((one) => {
    const value = picked.value(one);
    const says = `Square ${one.square}: ${picked.says} ${value === null ? "not known" : value.toFixed(picked.digits)}; ${counted(one.micrographs, "micrograph")}`;
    const [cx, cy] = [one.stage_um[0], -one.stage_um[1]];
    const drawn = drawing(
      "g",
      { class: `square${chosen === key(one) ? " is-chosen" : ""}`, tabindex: 0, role: "button", "aria-label": says, "data-square": key(one), onclick: () => choose(one), onkeydown: (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), choose(one)) },
      drawing("title", {}, says),
      drawing("rect", { x: cx - side / 2, y: cy - side / 2, width: side, height: side, rx: side / 20, fill: colour(value, range), class: value === null ? "unknown" : "" }),
    );
    if (one.skip) drawn.append(drawing("path", { class: "cross", d: `M${cx - side / 3} ${cy - side / 3}l${side / 1.5} ${side / 1.5}m0 ${-side / 1.5}l${-side / 1.5} ${side / 1.5}` }));
    return drawn;
  });
  const focused = document.activeElement?.dataset?.square;
  map.replaceChildren(drawing("svg", { viewBox: box.map((one) => one.toFixed(2)).join(" "), role: "group", "aria-label": `Map of the grid, ${counted(placed.length, "square")}` }, ...squares));
  if (focused) map.querySelector(`[data-square="${CSS.escape(focused)}"]`)?.focus();
  byId("scale").replaceChildren(...scaleOf(picked, range));
}

function scaleOf({ digits, says }, [low, high]) {
  return [low.toFixed(digits), element("span", { class: "ramp" }), `${high.toFixed(digits)} ${says}`];
}

/** As large as fits between the nearest two squares, at most that of a usual mesh. */
function sideOf(placed, largest = SQUARE_UM) {
  let nearest = Infinity;
  placed.forEach(({ stage_um: [x, y] }, k) => {
    for (const { stage_um: other } of placed.slice(k + 1)) nearest = Math.min(nearest, Math.max(Math.abs(x - other[0]), Math.abs(y - other[1])));
  });
  return Math.max(0.4, Math.min(largest, 0.85 * nearest));
}

async function choose(one) {
  chosen = key(one);
  drawMap();
  for (const row of byId("ranking").children) row.classList.toggle("is-chosen", row.dataset.square === chosen);
  if (holes.square !== chosen) holes = [];
  drawHoles();
  const caption = byId("chosen");
  const says = `Square ${one.square}: ${grouped(one.good)} good, ${grouped(one.doubtful)} doubtful, ${grouped(one.bad)} bad; ${counted(one.particles, "particle")}.`;
  let found = [];
  try {
    found = (await ask(`/api/square?${new URLSearchParams({ grid: one.grid, square: one.square })}`)).holes;
  } catch (error) {
    if (!error.status) throw error;
  }
  if (chosen !== key(one)) return;
  holes = Object.assign(found.map(asSquare).sort((a, b) => b.particles_each - a.particles_each), { square: chosen });
  drawHoles();
  caption.replaceChildren(`${says} ${one.skip ? `Skip it? ${one.skip}. ` : ""}`, element("a", { href: listOf(one) }, "Its micrographs"));
}

// --- the holes of a square ---------------------------------------------------------------------------------------------

/** A hole with the figures of a square. */
function asSquare(hole) {
  return {
    ...hole,
    stage_um: hole.stage_x_um === null ? null : [hole.stage_x_um, hole.stage_y_um],
    particles_each: hole.particles / hole.micrographs,
    good_fraction: hole.good / hole.micrographs,
    ice: hole.relative_ice_thickness,
    resolution_angstrom: hole.ctf_resolution_angstrom,
  };
}

function drawHoles() {
  byId("holes").replaceChildren(...(holes.length ? [...mapOfHoles(), tableOfHoles()] : []));
}

/** Nothing where holes share a stage position, since the beam went to them by image shift. */
function mapOfHoles() {
  const placed = holes.filter(({ stage_um }) => stage_um);
  if (placed.length < 2 || new Set(placed.map(({ stage_um }) => stage_um.join())).size < placed.length) return [];
  const picked = FIGURES[figure.value === "expected" ? "particles_each" : figure.value];
  const range = rangeOf(picked, placed);
  const radius = Math.max(0.2, sideOf(placed, 4) / 2);
  const [x, y] = [placed.map(({ stage_um }) => stage_um[0]), placed.map(({ stage_um }) => -stage_um[1])];
  const box = [Math.min(...x) - 2 * radius, Math.min(...y) - 2 * radius, Math.max(...x) - Math.min(...x) + 4 * radius, Math.max(...y) - Math.min(...y) + 4 * radius];
  const circles = placed.map((one, k) => {
    const value = picked.value(one);
    const says = `Hole ${one.hole}: ${value === null ? "not known" : value.toFixed(picked.digits)}`;
    return drawing("circle", { class: `hole${value === null ? " unknown" : ""}`, cx: x[k], cy: y[k], r: radius, fill: colour(value, range) }, drawing("title", {}, says));
  });
  return [
    element("div", { class: "map" }, drawing("svg", { viewBox: box.map((one) => one.toFixed(2)).join(" "), role: "img", "aria-label": `Map of the square, ${counted(placed.length, "hole")}` }, ...circles)),
    element("p", { class: "scale" }, ...scaleOf(picked, range)),
  ];
}

function tableOfHoles() {
  const lines = holes.map((one) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, one.hole),
      ...[
        `${grouped(Math.round(one.particles_each))} × ${grouped(one.micrographs)}`,
        `${Math.round(100 * one.good_fraction)} %`,
        decimals(one.ice, 2),
        decimals(one.resolution_angstrom, 1),
      ].map((text) => element("td", { class: "number" }, text)),
    ),
  );
  const heads = ["Particles, each", "Good", "Ice", "CTF, Å"].map((text) => element("th", { scope: "col", class: "number" }, text));
  return element(
    "div",
    { class: "table-frame", tabindex: 0, role: "region", "aria-label": "Holes of the square" },
    element("table", {}, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Hole"), ...heads)), element("tbody", {}, ...lines)),
  );
}
