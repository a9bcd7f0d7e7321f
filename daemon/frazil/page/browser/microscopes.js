// Several microscopes: is each working, how fast, what is wrong, and the way to its own page.

import { ago, ask, byId, counted, element, fileName, grouped, listFacts, say, setClock, showLink } from "/static/dom.js";
import { judge } from "/static/verdict.js";

const EVERY_SECONDS = 2;
const LOST = "This page is served by “frazil page”, which does not answer. It goes on by itself when that is back.";
const cards = [];

async function look() {
  try {
    const { now, microscopes } = await ask("/api/microscopes");
    setClock(now);
    showLink("");
    microscopes.forEach(show);
    const well = microscopes.filter((one) => one.heard_at && !one.fault && verdict(one)[0] !== "fault").length;
    say(byId("count"), `${well} of ${counted(microscopes.length, "microscope")} ${well === 1 ? "works" : "work"}.`);
    for (const when of document.querySelectorAll("[data-at]")) say(when, ago(Number(when.dataset.at)));
  } catch {
    showLink(LOST);
  }
  setTimeout(look, EVERY_SECONDS * 1000);
}

function verdict({ fault, heard_at, sessions, troubles, unready, newest }) {
  if (fault) return ["fault", "✕", "No: its daemon does not answer."];
  if (!heard_at) return ["warning", "…", "It is being asked."];
  if (!unready && !troubles.length && !sessions.length) return ["ok", "✓", "Yes: no session is open."];
  return judge({ troubles, unready, picking: sessions.some(({ waiting }) => waiting), last: newest });
}

/** Shows a microscope at its place; what has the keyboard keeps it. */
function show(microscope, place) {
  const { heard_at, ...rest } = microscope;
  const wanted = JSON.stringify([rest, Boolean(heard_at), rest.fault && heard_at]);
  if (cards[place]?.dataset.shown === wanted) return;
  const made = card(microscope, place);
  made.dataset.shown = wanted;
  const before = cards[place];
  const focused = before ? [...before.querySelectorAll("a")].indexOf(document.activeElement) : -1;
  if (before) before.replaceWith(made);
  else byId("list").append(made);
  if (focused >= 0) made.querySelectorAll("a")[focused]?.focus();
  cards[place] = made;
}

function card(microscope, place) {
  const { name, url, fault, heard_at, sessions, troubles, newest, picture } = microscope;
  const [mood, icon, says] = verdict(microscope);
  const facts = element("dl", { class: "facts" });
  listFacts(facts, factsOf(microscope));
  const image = picture && newest ? element("img", { src: `/api/picture/${place}?${picture}`, alt: `The newest micrograph of ${name}`, width: 160 }) : null;
  return element(
    "li",
    { class: fault ? "unheard" : "" },
    element("h2", {}, element("a", { href: `${url}/` }, name)),
    element("p", { class: `verdict ${mood}` }, element("span", { class: "icon", "aria-hidden": "true" }, icon), says),
    fault ? element("p", { class: "hint" }, `${fault[0].toUpperCase()}${fault.slice(1)}. See whether it runs there, and whether this machine reaches ${url}.`) : null,
    fault && heard_at ? element("p", { class: "hint" }, "What follows was heard ", element("span", { "data-at": heard_at }, ago(heard_at)), ".") : null,
    heard_at ? element("div", { class: "beside" }, image, facts) : null,
    newest ? latest(url, newest) : null,
    element("ul", { class: "events" }, ...sessions.filter((one) => one.name).map((one) => sessionLine(url, one)), ...more(microscope)),
    element("ul", { class: "troubles" }, ...troubles.map((trouble) => element("li", { class: trouble.level }, element("strong", {}, `${trouble.level === "fault" ? "✕" : "!"} ${trouble.says}.`), ` ${trouble.todo}`))),
  );
}

function factsOf({ sessions, newest }) {
  const sum = (what) => sessions.reduce((total, session) => total + session[what], 0);
  return [
    ["Micrographs a minute", sum("rate_per_minute").toFixed(1)],
    ["Waiting", grouped(sum("waiting"))],
    ["Picks", grouped(sum("picks")), `in ${counted(sum("picked"), "micrograph")}`],
    ...(sessions.length === 1 ? [["Threshold", number(sessions[0].threshold)]] : []),
    ...(newest ? [["Newest", counted(newest.picks, "pick")]] : []),
  ];
}

function number(threshold) {
  return threshold === null ? "–" : threshold.toFixed(2);
}

function latest(url, { path, session, at }) {
  const where = `${url}/micrograph?${new URLSearchParams({ path, ...(session ? { session } : {}) })}`;
  return element("p", { class: "caption" }, "The newest: ", element("a", { href: where }, fileName(path)), ", ", element("span", { "data-at": at ?? 0 }, ago(at)));
}

function sessionLine(url, { name, status, rate_per_minute, picked, threshold }) {
  const says = status === "open" ? `${rate_per_minute.toFixed(1)} a minute · ${grouped(picked)} picked · threshold ${number(threshold)}` : status;
  return element("li", {}, element("a", { href: `${url}/?${new URLSearchParams({ session: name })}` }, name), ` ${says}`);
}

function more({ url, more_sessions }) {
  return more_sessions ? [element("li", {}, "and ", element("a", { href: `${url}/sessions` }, `${grouped(more_sessions)} more`))] : [];
}

look();
