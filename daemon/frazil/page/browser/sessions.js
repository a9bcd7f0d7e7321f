// The sessions of a microscope: what each is at, and the wishes of whoever holds the token.

import { ask, at, byId, confirmation, element, grouped, markHead, post, say, setClock, showLink } from "/static/dom.js";
import { offerSignIn } from "/static/sign_in.js";

const EVERY_SECONDS = 2;
const LOST = "The daemon does not answer. This page goes on by itself when it is back.";
const IS_OVER = ["closed", "archived", "old"];
const WORDS = { open: "open", waiting: "waits", paused: "paused", closed: "closed", archived: "archived", old: "not opened" };

const told = confirmation();
let shown = "";

async function look() {
  try {
    const sessions = await ask("/api/sessions");
    showLink("");
    const now = JSON.stringify(sessions.map(({ watch, ...rest }) => ({ ...rest, scanned: watch.fault })));
    // A form that somebody fills in stays as it is.
    if (now !== shown && !byId("main").querySelector("input:focus")) {
      shown = now;
      show(sessions);
    }
  } catch {
    showLink(LOST);
  }
  setTimeout(look, EVERY_SECONDS * 1000);
}

function show(sessions) {
  const over = sessions.filter(({ status }) => IS_OVER.includes(status));
  byId("list").replaceChildren(...sessions.filter(({ status }) => !IS_OVER.includes(status)).map(card));
  if (sessions.length === over.length) byId("list").replaceChildren(element("li", {}, "No session is open. One that appears below the root opens by itself."));
  byId("more").hidden = !over.length;
  say(byId("more").querySelector("summary"), `${grouped(over.length)} that are over or were never opened`);
  byId("closed").replaceChildren(...over.map(card));
}

function card(session) {
  const { name, status, says, directory, pick, intake } = session;
  const facts = [session.diameter_angstrom ? `${session.diameter_angstrom} Å` : "", session.model ? `${session.model.name}/${session.model.version}` : ""];
  if (status === "open") facts.push(`${grouped(pick.picked)} picked, ${grouped(pick.failed)} failed`, intake.backlog ? `${grouped(intake.backlog)} wait` : "");
  const fault = session.watch.fault || session.blocked;
  const result = session.ledger_head || status === "open" || IS_OVER.includes(status);
  return element(
    "li",
    { class: `session-${status}` },
    element("h2", {}, result && status !== "old" ? element("a", { href: at("/", name) }, name) : name, " ", element("span", { class: `badge badge-${fault ? "fault" : status}` }, WORDS[status])),
    element("p", {}, facts.filter(Boolean).join(" · ")),
    ...(fault || says).split("; ").filter(Boolean).map((line) => element("p", { class: "says" }, line.replace(`${directory}/`, ""))),
    suggestion(session),
    element("p", { class: "hint" }, directory),
    session.needs_diameter ? diameter(session) : null,
    element("p", { class: "buttons" }, ...wishes(status).map(([wish, word]) => element("button", { type: "button", onclick: () => change(name, { wish }) }, word))),
  );
}

function suggestion({ suggested }) {
  if (!suggested) return null;
  const { diameter_angstrom: d, low_angstrom: low, high_angstrom: high } = suggested;
  return element("p", { class: "says" }, `Its particles look like ${Math.round(d)} Å (${Math.round(low)} to ${Math.round(high)}).`);
}

function diameter({ name, suggested }) {
  const input = element("input", { type: "number", min: 1, step: "any", required: true, name: "diameter", "aria-label": `Diameter of the particle of ${name}, in Å` });
  if (suggested) input.value = Math.round(suggested.diameter_angstrom);
  const set = (event) => {
    event.preventDefault();
    change(name, { settings: { diameter_angstrom: Number(input.value) } });
    input.blur();
  };
  return element("form", { class: "diameter", onsubmit: set }, element("label", {}, "Diameter, Å ", input), element("button", {}, "Set, and begin to pick"));
}

function wishes(status) {
  const open = ["open", "Open"];
  const pause = ["paused", "Pause"];
  const close = ["closed", "Close"];
  return { open: [pause, close], waiting: [close], paused: [open, close], closed: [open], old: [open], archived: [open] }[status];
}

async function change(name, wish) {
  try {
    await post(`/api/sessions/${name.split("/").map(encodeURIComponent).join("/")}`, wish);
    told.tell(`Asked for ${name}: the daemon takes it within a second or two.`);
  } catch (error) {
    told.tell(`${name} was not changed: ${error.message}`);
  }
}

byId("told").replaceWith(told.box);
setClock(Date.now() / 1000);
markHead();
offerSignIn();
look();
