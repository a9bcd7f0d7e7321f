// The overview: is it working, are the picks good, what changed, what to do.

import { drawPicks, thumbnail } from "/static/circles.js";
import { ago, ask, at, byId, clock, counted, decimals, element, fileName, grouped, listFacts, micrographLink, nowSeconds, say, span } from "/static/dom.js";
import { isForPage, offerHelp } from "/static/help.js";
import { follow } from "/static/live.js";
import { plot } from "/static/plot.js";
import { judge } from "/static/verdict.js";
import { Viewer } from "/static/viewer.js";

const SERIES_SECONDS = 5;
const THUMBNAILS_MS = 2000;
let first = null;

let now = null;
let viewer = null;
let shownSeq = 0;
let version = "";
let seriesAsked = 0;
let seriesHead = -1;
let series = null;
let axis = "number";
let range = { says: "All" };
const cards = new Map();

follow(
  (state) => {
    if (version && version !== state.version) location.reload(); // the daemon was upgraded, and its page with it
    version = state.version;
    now = state;
    showAll();
  },
  () => {
    if (!now) return;
    showVerdict();
    showFacts();
    for (const when of document.querySelectorAll("[data-at]")) say(when, ago(Number(when.dataset.at)));
    askSeries();
  },
);
addEventListener("resize", () => series && drawSeries());
offerHelp([
  ["Enter", "On the picture’s name: open the newest micrograph"],
  ["o", "Open the newest micrograph"],
  ["?", "This card"],
]);
addEventListener("keydown", (event) => {
  const newest = now?.standing?.latest[0];
  if (event.key === "o" && newest && isForPage(event)) location.href = micrographLink(newest.path);
});

function showAll() {
  const { standing } = now;
  showVerdict();
  showFacts();
  showTroubles();
  if (!standing) return;
  say(byId("foot"), `frazil ${now.version} on ${now.host}. Watching ${standing.daemon?.watch ?? ""}, writing to ${standing.daemon?.out ?? ""}, publishing on ${standing.daemon?.stream ?? ""}.`);
  showPassedOver(standing);
  showLatest(standing);
  showChanges(standing);
  showFailures(standing);
  askSeries();
}

// --- is it working? -------------------------------------------------------------------------------------------------

function showVerdict() {
  const { standing, troubles, queues } = now;
  const last = standing?.latest[0]?.at;
  const picking = queues.read + queues.pick + queues.write > 0;
  const [mood, icon, says] = judge({ troubles, unready: now.unready, picking, last });
  const verdict = byId("verdict");
  verdict.className = `verdict ${mood}`;
  const more = troubles.length ? ` ${troubles.length === 1 ? "One thing" : `${troubles.length} things`} to look at` : "";
  const wanted = `${icon} ${says}${more}`;
  if (verdict.dataset.shown === wanted) return;
  verdict.dataset.shown = wanted;
  verdict.replaceChildren(
    element("span", { class: "icon", "aria-hidden": "true" }, icon),
    says,
    ...(more ? [" ", element("a", { href: "#todo" }, more.trim())] : []),
  );
}

function showFacts() {
  const { standing, queues, requeued } = now;
  const counts = standing?.counts ?? {};
  const last = standing?.picked_at[0]; // not when its picks were tuned
  const failed = countFailed(counts);
  listFacts(byId("facts"), [
    ["Rate", `${now.rate_per_minute.toFixed(1)} a minute`, "over ten minutes"],
    ["Last picked", last ? ago(last) : "–", last ? clock(last) : "none so far"],
    ["Waiting", grouped(Math.max(0, queues.read + queues.pick - requeued)), queues.incomplete ? `and ${grouped(queues.incomplete)} incomplete` : "to be picked"],
    ...(requeued ? [["Picked again", grouped(requeued), "earlier ones that wait, behind all others"]] : []),
    ["File complete to picks", standing?.seconds ? `${standing.seconds.toFixed(2)} s` : "–", "median of the latest"],
    ["Picked", grouped(standing?.head && counts.picked ? counts.picked + (counts.gone ?? 0) : (counts.picked ?? 0)), failed ? `${grouped(failed)} failed` : "none failed"],
    ["Model", now.model || "–", now.provider ? `on ${device(now.provider)}, ${now.precision}${now.junk_model ? `; junk by ${now.junk_model}` : ""}` : ""],
    ["Particle", standing?.diameter_angstrom ? `${standing.diameter_angstrom.toFixed(0)} Å` : "–", ""],
    ["Threshold", standing?.threshold != null ? standing.threshold.toFixed(2) : "–", standing?.threshold_says ?? ""],
    ...(standing?.layout ? [["Layout", standing.layout.split(",")[0], standing.layout.split(", ")[1]]] : []),
  ]);
}

function countFailed(counts) {
  return (counts.failed ?? 0) + (counts.quarantined ?? 0);
}

function showPassedOver({ passed_over, passed_over_lines }) {
  const details = byId("passed-over");
  details.hidden = !passed_over;
  say(details.querySelector("summary"), `${grouped(passed_over)} ${passed_over === 1 ? "file or folder is" : "files and folders are"} passed over`);
  details.querySelector("ul").replaceChildren(...passed_over_lines.map((line) => element("li", {}, line)));
}

function device(provider) {
  return { CPUExecutionProvider: "the CPU", CUDAExecutionProvider: "a GPU (CUDA)" }[provider] ?? provider;
}

// --- are the picks good? ----------------------------------------------------------------------------------------------

async function showLatest({ latest, epoch }) {
  if (!latest.length) {
    say(byId("newest"), "The first micrograph’s picture comes here.");
    return;
  }
  const newest = latest[0];
  if (newest.seq !== shownSeq && !beingLookedAt()) {
    shownSeq = newest.seq;
    viewer ??= new Viewer(byId("viewer"), epoch, { compact: true });
    viewer.epoch = epoch;
    const pictured = viewer.show(newest.seq).then(() => viewer.pictured);
    pictured.catch((error) => say(byId("newest"), error.message));
    first ??= Promise.race([pictured.catch(() => {}), new Promise((resolve) => setTimeout(resolve, THUMBNAILS_MS))]);
    byId("newest").replaceChildren(
      "The newest: ",
      element("a", { href: micrographLink(newest.path) }, fileName(newest.path)),
      `, ${counted(newest.picks, "pick")}, mean score ${decimals(newest.score, 2)}, `,
      element("span", { "data-at": newest.at }, ago(newest.at)),
    );
  }
  await first; // the newest picture comes before any thumbnail
  if (now.standing.latest !== latest) return;
  const list = byId("latest");
  const wanted = latest.slice(1);
  byId("earlier").hidden = !wanted.length;
  for (const [seq, card] of cards) {
    if (!wanted.some((glance) => glance.seq === seq)) {
      card.remove();
      cards.delete(seq);
    }
  }
  wanted.forEach((glance, place) => {
    if (!cards.has(glance.seq)) cards.set(glance.seq, makeCard(glance, epoch));
    const card = cards.get(glance.seq);
    if (list.children[place] !== card) list.insertBefore(card, list.children[place] ?? null);
  });
}

/** Nothing is taken away from under a zoom. */
function beingLookedAt() {
  return Boolean(viewer?.svg?.classList.contains("zoomed"));
}

function makeCard(glance, epoch) {
  const name = fileName(glance.path);
  const svg = thumbnail(glance.shape, glance.seq, epoch, `${name}: ${counted(glance.picks, "pick")}`);
  const card = element(
    "li",
    {},
    element(
      "a",
      { href: micrographLink(glance.path) },
      svg,
      element("span", { class: "name" }, name),
      element("span", { class: "numbers" }, `${counted(glance.picks, "pick")} · ${decimals(glance.score, 2)}`),
      element("span", { class: "numbers", "data-at": glance.at }, ago(glance.at)),
    ),
  );
  ask(`/api/overlay/${glance.seq}`).then(
    (overlay) => svg.append(drawPicks(overlay.picks, overlay.threshold, overlay.diameter_px)),
    () => {},
  );
  return card;
}

async function askSeries() {
  const head = now.standing?.head ?? -1;
  if (head === seriesHead || nowSeconds() - seriesAsked < SERIES_SECONDS) return;
  seriesAsked = nowSeconds();
  try {
    series = await ask(`/api/series?${new URLSearchParams(partOfSession())}`);
  } catch {
    return; // it is asked for again
  }
  // A long session is read in portions, and the next one is asked for at once.
  if (series.complete) seriesHead = head;
  else seriesAsked = 0;
  drawSeries();
}

/** The numbers of the first and last micrograph that are plotted. */
function partOfSession() {
  if (range.latest) return { first: Math.max(1, (series?.count ?? 0) - range.latest + 1) };
  return range.first ? { first: range.first, last: range.last } : {};
}

function showRange(wanted) {
  range = wanted;
  seriesHead = -1;
  seriesAsked = 0;
  askSeries();
}

function drawRanges() {
  const choice = (wanted) => element("button", { type: "button", "aria-pressed": String(range.says === wanted.says), onclick: () => showRange(wanted) }, wanted.says);
  const against = element("select", { "aria-label": "Plotted against" }, element("option", { value: "number" }, "by number"), element("option", { value: "at" }, "by time"));
  against.value = axis;
  against.addEventListener("change", () => {
    axis = against.value;
    drawSeries();
  });
  const ranges = [{ says: "All" }, ...[500, 100, 20].filter((latest) => series.count > latest).map((latest) => ({ says: `Latest ${latest}`, latest }))];
  if (range.first) ranges.push(range);
  const wanted = JSON.stringify([ranges, range, axis]);
  if (byId("ranges").dataset.shown === wanted) return;
  byId("ranges").dataset.shown = wanted;
  byId("ranges").replaceChildren(...ranges.map(choice), against);
}

function drawSeries() {
  drawRanges();
  const marks = (now.standing?.changes ?? []).filter((change) => change.event !== "refused").map((change) => ({ at: change.at, says: change.model }));
  const zoom = (from, to) => showRange({ first: Math.floor(from), last: Math.ceil(to), says: `${Math.floor(from)} to ${Math.ceil(to)}` });
  const shared = { number: series.number, at: series.at, seq: series.seq, axis, marks, zoom };
  plot(byId("picks"), { ...shared, values: series.picks, lowest: series.lowest, highest: series.highest, name: "Picks per micrograph" });
  plot(byId("score"), { ...shared, values: series.score, name: "Mean score", bounds: [0, 1], digits: 2 });
}

// --- what changed? ----------------------------------------------------------------------------------------------------

function showChanges({ changes, daemon, tuned }) {
  const events = { loaded: "serves from here on", refused: "was refused", rolled_back: "serves again, after a roll-back" };
  const began = daemon ? [element("li", {}, element("time", {}, clock(daemon.started_at)), ` The daemon was started, ${span(nowSeconds() - daemon.started_at)} ago.`)] : [];
  const told = changes.map((change) =>
    element("li", { class: change.event }, element("time", {}, clock(change.at)), ` ${change.model} ${events[change.event] ?? change.event}${change.reason ? `: ${change.reason}` : ""}`),
  );
  const tuning = tuned ? [element("li", {}, `${tuned.says[0].toUpperCase()}${tuned.says.slice(1)}.`)] : [];
  const all = [...tuning, ...told, ...began];
  byId("models").replaceChildren(...(all.length ? all : [element("li", {}, "Nothing so far.")]));
}

function showFailures({ failures, counts }) {
  const count = countFailed(counts);
  byId("failures").replaceChildren(
    ...(failures.length
      ? failures.map((record) =>
          element(
            "li",
            {},
            element("time", {}, clock(record.seen_at)),
            " ",
            element("a", { href: micrographLink(record.path) }, fileName(record.path)),
            ` (${record.reason}${record.state === "failed" ? ", tried again" : ""}): ${shorten(record)}`,
          ),
        )
      : [element("li", {}, "None.")]),
  );
  byId("all-failures").replaceChildren(...(count > failures.length ? [element("a", { href: at("/micrographs?states=failed,quarantined") }, `All ${grouped(count)}`)] : []));
}

/** A message without the path that it begins with. */
function shorten({ path, message }) {
  const end = message.indexOf(`${fileName(path)}: `);
  return end < 0 ? message : message.slice(end + fileName(path).length + 2);
}

// --- what to do? ------------------------------------------------------------------------------------------------------

function showTroubles() {
  const list = byId("troubles");
  const failed = countFailed(now.standing?.counts ?? {});
  list.replaceChildren(
    ...(now.troubles.length
      ? now.troubles.map((trouble) =>
          element("li", { class: trouble.level }, element("strong", {}, `${trouble.level === "fault" ? "✕" : "!"} ${trouble.says}.`), ` ${trouble.todo}`),
        )
      : failed
        ? [element("li", { class: "warning" }, element("strong", {}, `! ${counted(failed, "micrograph")} could not be picked.`), " See why under Failures.")]
        : [element("li", { class: "ok" }, "Nothing needs you.")]),
  );
  const newest = now.standing?.latest[0];
  byId("tune").replaceChildren(
    ...(newest ? ["Too many picks, or too few? ", element("a", { href: `${micrographLink(newest.path)}#tuning` }, "Tune by eye on the newest micrograph.")] : []),
  );
}
