// One micrograph: its picture, its picks, its score map, and what the ledger knows of it.

import { ask, at, byId, clock, decimals, element, fileName, listFacts, say, STATES } from "/static/dom.js";
import { follow } from "/static/live.js";
import { histogram } from "/static/plot.js";
import { tune } from "/static/tune.js";
import { Viewer } from "/static/viewer.js";

const asked = new URLSearchParams(location.search);
let viewer = null;
let shown = 0;
let path = asked.get("path") ?? "";

follow(async (now) => {
  if (!now.standing) return;
  try {
    await show(now.standing, now.token_file);
  } catch (error) {
    say(byId("trouble"), error.message);
    byId("trouble").hidden = false;
    say(byId("name"), path ? fileName(path) : "No such micrograph");
  }
});

let looked = "";

/** Shows the micrograph as it stands; a file that was written again gets its new result without a reload. */
async function show({ epoch, head, counts }, tokenFile) {
  const stand = JSON.stringify([head, counts]);
  if (looked === stand) return;
  looked = stand;
  if (!path) path = (await ask(`/api/overlay/${Number(asked.get("seq")) || 0}`)).path;
  const record = await ask(`/api/micrograph?${new URLSearchParams({ path })}`);
  document.title = `${fileName(path)} · frazil`;
  say(byId("name"), fileName(path));
  byId("trouble").hidden = !record.message;
  say(byId("trouble"), record.message);
  if (record.seq === null) {
    listFacts(byId("facts"), facts(record, null));
    return;
  }
  if (record.seq === shown) return;
  const first = !shown;
  shown = record.seq;
  viewer ??= new Viewer(byId("viewer"), epoch);
  const overlay = await viewer.show(record.seq);
  if (!overlay) return;
  listFacts(byId("facts"), facts(record, overlay));
  showNeighbours(overlay);
  showScores(overlay);
  byId("tuning").hidden = !overlay.hidden;
  if (overlay.hidden) tune(byId("tune"), viewer, overlay, tokenFile);
  if (first && location.hash) byId(location.hash.slice(1))?.scrollIntoView();
}

function after(seconds) {
  return seconds === null ? "" : `, ${seconds.toFixed(2)} s after the file was complete`;
}

function facts(record, overlay) {
  const known = [
    ["State", STATES[record.state]],
    ["Folder", record.path.slice(0, -fileName(record.path).length) || "."],
    ["File", `${(record.size / 2 ** 20).toFixed(1)} MiB`],
    ["Found", clock(record.seen_at)],
  ];
  if (!overlay) return [...known, ["Attempts", record.attempts]];
  const { picks, hidden } = overlay;
  const mean = picks.score.length ? picks.score.reduce((a, b) => a + b, 0) / picks.score.length : null;
  return [
    ["Picks", `${picks.y.length}, mean score ${decimals(mean, 2)}`],
    ["Below the threshold", hidden ? `${hidden.y.length} candidates` : "not kept (keep_score_maps is off)"],
    ["Threshold", `${overlay.threshold.toFixed(3)}, ${overlay.threshold_says}`],
    ["Particle", `${(overlay.diameter_px * overlay.pixel_size_angstrom).toFixed(0)} Å, ${overlay.diameter_px.toFixed(1)} px`],
    ["Pixels", `${overlay.shape[1]} wide, ${overlay.shape[0]} high, ${overlay.pixel_size_angstrom.toFixed(3)} Å each`],
    ["Model", overlay.model],
    [overlay.seconds === null ? "Revised" : "Picked", clock(Date.parse(overlay.picked_at) / 1000) + after(overlay.seconds)],
    ...known,
    ["Sequence number", overlay.seq],
  ];
}

function showNeighbours({ older, newer }) {
  const link = (says, seq, rel) => (seq === null ? element("span", { class: "off" }, says) : element("a", { href: at(`/micrograph?seq=${seq}`), rel }, says));
  byId("neighbours").replaceChildren(link("‹ older", older, "prev"), " ", link("newer ›", newer, "next"));
}

function showScores({ picks, hidden, threshold }) {
  const all = [...picks.score, ...(hidden?.score ?? [])];
  const name = `Scores of ${picks.score.length} picks and ${hidden?.score.length ?? 0} candidates; the line is the threshold`;
  histogram(byId("scores"), all, { low: 0, high: 1, bins: 40, limit: threshold, name });
}
