// One micrograph as a workbench: its picture, its picks and scores, its neighbours in the list, and corrections.

import { ask, at, byId, clock, counted, decimals, element, fileName, listFacts, micrographLink, say, STATES } from "/static/dom.js";
import { Edits, exportAddress, FORMATS } from "/static/edits.js";
import { isForPage, offerHelp } from "/static/help.js";
import { follow } from "/static/live.js";
import { histogram } from "/static/plot.js";
import { listQuery } from "/static/query.js";
import { showQuality } from "/static/quality_of.js";
import { showStrip } from "/static/strip.js";
import { tune } from "/static/tune.js";
import { Viewer } from "/static/viewer.js";

const VIEW_MS = 400;
const STRIP_MS = 1500;
const GRANT_MS = 1500;
const AROUND_MS = 2000;

const edits = new Edits((changed) => {
  if (changed !== path) return;
  viewer?.draw();
  showCorrections();
});
const query = listQuery();
let viewer = null;
let epoch = "";
let shown = 0;
let path = "";
let overlay = null;
let around = null;
let looked = "";
let asking = null;
let wish = null;
let aroundAgain = null;

readAddress();
offerHelp([
  ["→ j", "Next micrograph of the list"],
  ["← k", "The one before it"],
  ["n", "Next one to look at: failed, bad, doubtful or with few picks"],
  ["N", "The one to look at before"],
  ["g", "Mark the micrograph good (again: lift the mark)"],
  ["b", "Mark it bad: it has no picks then (again: lift the mark)"],
  ["e", "Add picks by a click, delete picks by a click on them; or with the arrows (Shift: finely) and Enter"],
  ["x", "Outline junk by dragging around it"],
  ["z", "Undo the last correction of this micrograph"],
  ["c", "Measure a particle"],
  ["l Esc", "Look only"],
  ["p t m u o", "Show picks, candidates below the threshold, the score map, junk, corrections"],
  ["+ −", "Zoom"],
  ["0 1", "Fit all of it; one pixel of the screen for each of the file"],
  ["?", "This card"],
]);

// --- what is shown, as the address says -------------------------------------------------------------------------------

function readAddress() {
  path = new URLSearchParams(location.search).get("path") ?? "";
}

/** `y,x,width` of the part that is looked at, as the address keeps it. */
function boxOfAddress() {
  const [y, x, width] = (new URLSearchParams(location.search).get("view") ?? "").split(",").map(Number);
  return width > 0 ? { y, x, width } : null;
}

function addressOf(other) {
  const link = new URL(micrographLink(other), location.origin);
  for (const [name, value] of Object.entries(query)) link.searchParams.set(name, value);
  return `${link.pathname}${link.search}`;
}

let keeping = null;

function keepView(box) {
  clearTimeout(keeping);
  keeping = setTimeout(() => {
    const url = new URL(location.href);
    if (box) url.searchParams.set("view", [box.y, box.x, box.width].map((px) => px.toFixed(1)).join(","));
    else url.searchParams.delete("view");
    if (url.href !== location.href) history.replaceState(null, "", url);
  }, VIEW_MS);
}

async function go(other) {
  if (!other || other === path) return;
  clearTimeout(keeping);
  history.pushState(null, "", addressOf(other));
  await open();
}

addEventListener("popstate", open);

/** Opens what the address names, and keeps nothing of what was shown before. */
async function open() {
  readAddress();
  looked = "";
  shown = 0;
  around = null;
  if (latest) await showOrSay(latest);
}

let latest = null;

follow(async (now) => {
  if (!now.standing) return;
  latest = now.standing;
  await showOrSay(now.standing);
});

async function showOrSay(standing) {
  const wanted = path;
  try {
    await show(standing);
  } catch (error) {
    if (path !== wanted) return;
    say(byId("trouble"), error.message);
    byId("trouble").hidden = false;
    say(byId("name"), path ? fileName(path) : "No such micrograph");
  }
}

/** Shows the micrograph as it stands; a file that was written again gets its new result without a reload. */
async function show(standing) {
  const stand = JSON.stringify([standing.head, standing.counts, path]);
  if (looked === stand) return;
  looked = stand;
  epoch = standing.epoch;
  if (!path) {
    path = (await ask(`/api/overlay/${Number(new URLSearchParams(location.search).get("seq")) || 0}`)).path;
    history.replaceState(null, "", `${addressOf(path)}${location.hash}`);
  }
  const wanted = path;
  showAround();
  // First, so that the result that is asked for then has what was granted.
  const granted = await edits.granted(path).catch(() => []);
  const record = await ask(`/api/micrograph?${new URLSearchParams({ path })}`);
  if (wanted !== path) return;
  edits.drop(granted);
  showQuality(path, epoch).catch(() => {}); // what it says is asked for again with the next document
  document.title = `${fileName(path)} · frazil`;
  say(byId("name"), fileName(path));
  byId("name").title = path;
  byId("trouble").hidden = !record.message;
  say(byId("trouble"), record.message);
  const isPicked = record.seq !== null;
  byId("viewer").hidden = byId("correcting").hidden = !isPicked;
  if (!isPicked) {
    overlay = null;
    byId("tuning").hidden = true;
    byId("badge").hidden = true;
    byId("scores").replaceChildren();
    listFacts(byId("facts"), facts(record, null));
    return;
  }
  if (record.seq === shown) {
    viewer.draw();
    showCorrections();
    return;
  }
  const first = !shown;
  shown = record.seq;
  viewer ??= new Viewer(byId("viewer"), epoch, { correct, pending: (of) => edits.of(of), moved: keepView });
  viewer.epoch = epoch;
  const drawn = await viewer.show(record.seq, first ? boxOfAddress() : null);
  if (!drawn) return;
  overlay = drawn;
  listFacts(byId("facts"), facts(record, overlay));
  showScores(overlay);
  showCorrections();
  byId("tuning").hidden = !overlay.hidden;
  if (overlay.hidden) tune(byId("tune"), viewer, overlay, (limit) => showScores(overlay, limit));
  if (first && location.hash) byId(location.hash.slice(1))?.scrollIntoView();
}

// --- its neighbours ---------------------------------------------------------------------------------------------------

async function showAround() {
  const wanted = path;
  const found = await ask(`/api/around?${new URLSearchParams({ ...query, path, each: 8 })}`);
  if (wanted !== path) return;
  around = found;
  clearTimeout(aroundAgain);
  if (found.stale || !found.complete) aroundAgain = setTimeout(showAround, AROUND_MS);
  if (wish) {
    const to = found[wish];
    wish = null;
    if (to) {
      go(to);
      return;
    }
  }
  drawStrip(found);
  const link = (says, to, title, rel) =>
    to
      ? element("a", { href: addressOf(to), rel, title, onclick: (event) => follows(event, to) }, says)
      : element("span", { class: "off" }, says);
  const where = around.position === null ? `not among the ${counted(around.count, "micrograph")} of the list` : `${around.position + 1} of ${around.count}`;
  byId("neighbours").replaceChildren(
    link("‹ previous", around.previous, "Previous micrograph of the list (← or k)", "prev"),
    element("span", { class: "place" }, where),
    link("next ›", around.next, "Next micrograph of the list (→ or j)", "next"),
    link("next to look at »", around.bad_next, "Next one that failed, is bad or doubtful, or has few picks (n)"),
    element("a", { href: at(`/micrographs?${new URLSearchParams(query)}`) }, "list"),
  );
}

/** Thumbnails come after the picture that is looked at. */
async function drawStrip(found) {
  const strip = byId("strip");
  if (!strip.children.length) {
    await Promise.race([until(() => viewer?.pictured), pause(STRIP_MS)]);
    await Promise.race([viewer?.pictured, pause(STRIP_MS)]);
  }
  if (found === around) showStrip(strip, found, { path, epoch, addressOf, go });
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function until(there) {
  while (!there()) await pause(20);
}

/** Goes to a neighbour; at once, or as soon as it is known which one that is. */
function step(name) {
  if (around) go(around[name]);
  else wish = name;
}

/** A click leads there without a new page; one that wants another tab gets it. */
function follows(event, to) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(to);
}

addEventListener("keydown", (event) => {
  if (!isForPage(event)) return;
  const does = {
    j: () => step("next"),
    ArrowRight: () => step("next"),
    k: () => step("previous"),
    ArrowLeft: () => step("previous"),
    n: () => step("bad_next"),
    N: () => step("bad_previous"),
    g: () => mark("good"),
    b: () => mark("bad"),
    z: undo,
  }[event.key];
  if (event.target.matches?.("input[type=range], input[type=radio]") && event.key.startsWith("Arrow")) return;
  if (does) does();
  else if (!overlay || !viewer.press(event.key)) return;
  event.preventDefault();
});

// --- corrections ------------------------------------------------------------------------------------------------------

function correct(edit) {
  if (!overlay) return;
  if (edit.kind !== "mark" && viewer.edited.mark === "bad") {
    viewer.draw();
    say(byId("saved"), "It is marked bad: lift the mark first (b).");
    return;
  }
  edits.make({ path, seq: overlay.seq, ...edit });
}

function mark(wanted) {
  if (!overlay) return;
  correct({ kind: "mark", mark: viewer.edited.mark === wanted ? "" : wanted });
}

async function undo() {
  if (!overlay) return;
  try {
    if (!(await edits.undo(path, overlay.seq))) say(byId("saved"), "Nothing to undo.");
  } catch (error) {
    say(byId("saved"), `Not undone: ${error.message}.`);
  }
}

function showCorrections() {
  if (!overlay || !viewer.edited) return;
  const { added, deleted, junk, mark: marked } = viewer.edited;
  const badge = byId("badge");
  badge.hidden = !marked;
  badge.className = `badge badge-${marked === "bad" ? "fault" : "open"}`;
  say(badge, marked === "bad" ? "✕ bad" : "✓ good");
  const place = byId("correct");
  if (!place.children.length) place.append(...correctionTools());
  for (const name of ["good", "bad"]) byId(`mark-${name}`).setAttribute("aria-pressed", marked === name);
  const changes = [
    added.length ? `${added.length} added` : "",
    deleted.y.length ? `${deleted.y.length} taken away` : "",
    junk.length ? counted(junk.length, "region of junk", "regions of junk") : "",
  ].filter(Boolean);
  const by = (overlay.corrections?.by ?? []).filter(Boolean).join(", ");
  say(byId("changes"), marked === "bad" ? "Marked bad: it has no picks." : changes.length ? `${counted(viewer.edited.picks.y.length, "pick")}: ${changes.join(", ")}${by ? `, by ${by}` : ""}.` : "Nothing was corrected here.");
  const waiting = edits.of(path).length;
  clearTimeout(asking);
  if (waiting) asking = setTimeout(lookAgain, GRANT_MS);
  const merged = edits.merged?.includes(path) ? " Somebody else, or the daemon, changed this micrograph meanwhile: both are kept." : "";
  say(byId("saved"), edits.fault || (waiting ? `Saving ${counted(waiting, "change")} …` : `All changes are saved.${merged}`));
}

/** What undoes itself makes no new result, of which the daemon would tell. */
function lookAgain() {
  looked = "";
  if (latest) showOrSay(latest);
}

function correctionTools() {
  const button = (says, act, title, more = {}) => element("button", { type: "button", title, onclick: act, ...more }, says);
  return [
    element(
      "div",
      { class: "buttons" },
      button("Good", () => mark("good"), "Mark the micrograph good (g)", { id: "mark-good", "aria-pressed": "false" }),
      button("Bad", () => mark("bad"), "Mark the micrograph bad: it has no picks then (b)", { id: "mark-bad", "aria-pressed": "false" }),
      button("Undo", undo, "Undo the last correction of this micrograph (z)"),
    ),
    element("p", { class: "result", id: "changes" }),
    element("p", { class: "hint", id: "saved", role: "status" }),
    element(
      "p",
      { class: "hint downloads" },
      "Download its picks: ",
      ...Object.entries(FORMATS).flatMap(([format, says]) => [element("a", { href: "#", "data-format": format, onclick: (event) => (event.currentTarget.href = exportAddress(format, { paths: [path] })), download: true }, says), " "]),
    ),
  ];
}

// --- what is known of it ----------------------------------------------------------------------------------------------

function after(seconds) {
  return seconds === null ? "" : `, ${seconds.toFixed(2)} s after the file was complete`;
}

function facts(record, drawn) {
  const known = [
    ["State", STATES[record.state]],
    ["Folder", record.path.slice(0, -fileName(record.path).length) || "."],
    ["File", `${(record.size / 2 ** 20).toFixed(1)} MiB`],
    ["Found", clock(record.seen_at)],
  ];
  if (!drawn) return [...known, ["Attempts", record.attempts]];
  const { picks, hidden } = drawn;
  const mean = picks.score.length ? picks.score.reduce((a, b) => a + b, 0) / picks.score.length : null;
  return [
    ["Picks", `${picks.y.length}, mean score ${decimals(mean, 2)}`],
    ["Below the threshold", hidden ? counted(hidden.y.length, "candidate") : "not kept (keep_score_maps is off)"],
    ...(drawn.junk ? [["Junk", junkSays(drawn.junk)]] : []),
    ["Threshold", `${drawn.threshold.toFixed(3)}, ${drawn.threshold_says}`],
    ["Particle", `${(drawn.diameter_px * drawn.pixel_size_angstrom).toFixed(0)} Å, ${drawn.diameter_px.toFixed(1)} px`],
    ["Pixels", `${drawn.shape[1]} wide, ${drawn.shape[0]} high, ${drawn.pixel_size_angstrom.toFixed(3)} Å each`],
    ["Model", drawn.model],
    [drawn.seconds === null ? "Revised" : "Picked", clock(Date.parse(drawn.picked_at) / 1000) + after(drawn.seconds)],
    ...known,
    ["Sequence number", drawn.seq],
  ];
}

function junkSays({ fraction, outlines, dropped, flagged, model }) {
  if (!outlines.length) return "none";
  const picks = [dropped ? `${counted(dropped, "pick")} left out` : "", flagged.length ? `${counted(flagged.length, "pick")} kept there` : ""].filter(Boolean);
  return [`${(100 * fraction).toFixed(fraction < 0.1 ? 1 : 0)} % of the area`, ...picks, `by ${model.name}/${model.version}`].join(", ");
}

function showScores({ picks, hidden, threshold }, limit = threshold) {
  const all = [...picks.score, ...(hidden?.score ?? [])];
  const name = `Scores of ${counted(picks.score.length, "pick")} and ${counted(hidden?.score.length ?? 0, "candidate")}; the line is the threshold`;
  histogram(byId("scores"), all, { low: 0, high: 1, bins: 40, limit, name });
}
