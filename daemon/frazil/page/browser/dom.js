// Small things that every page needs: elements, numbers and times in words.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; text never becomes markup. */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function drawing(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Shows a text where it differs, so that screen readers do not repeat what has not changed. */
export function say(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/** A message that stays until it is closed: its box, and what shows a text in it, or hides it without one. */
export function confirmation(closed = () => {}) {
  const told = element("p", { class: "told", role: "status" });
  const box = element("div", { class: "confirmation", hidden: true }, told);
  const tell = (text) => {
    say(told, text ?? "");
    box.hidden = !text;
  };
  const close = () => {
    tell("");
    closed();
  };
  box.append(element("button", { type: "button", class: "close", "aria-label": "Close this message", title: "Close", onclick: close }, "×"));
  return { box, tell, shown: () => told.textContent };
}

/** Names and values as a description list. */
export function listFacts(list, facts) {
  const wanted = facts.map(([name, value, hint]) => `${name}\n${value}\n${hint ?? ""}`).join("\n\n");
  if (list.dataset.shown === wanted) return;
  list.dataset.shown = wanted;
  list.replaceChildren(
    ...facts.map(([name, value, hint]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, String(value)), hint ? element("dd", { class: "hint", title: hint }, hint) : null),
    ),
  );
}

let skewSeconds = 0;

/** Takes the daemon's clock for ours: those of two machines may differ. */
export function setClock(daemonSeconds) {
  skewSeconds = daemonSeconds - Date.now() / 1000;
}

export function nowSeconds() {
  return Date.now() / 1000 + skewSeconds;
}

/** `12 s`, `3 min`, `2.5 h`, `4 days`. */
export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${(s / 3600).toFixed(1)} h`;
  return `${Math.round(s / 86400)} days`;
}

export function ago(at) {
  return at ? `${span(nowSeconds() - at)} ago` : "";
}

/** Local time of day; with the date where it is another one. */
export function clock(at) {
  if (!at) return "";
  const when = new Date(at * 1000);
  const time = when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  return when.toDateString() === new Date().toDateString() ? time : `${when.toLocaleDateString()} ${time}`;
}

export function decimals(value, digits) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

export function grouped(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** The last part of a path, which is what tells micrographs apart. */
export function fileName(path) {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** The session that this page shows; empty for the first one of the daemon. */
export const session = new URLSearchParams(location.search).get("session") ?? "";

/** A path of this daemon, for the session that this page shows. */
export function at(path, of = session) {
  if (!of) return path;
  const url = new URL(path, location.origin);
  url.searchParams.set("session", of);
  return `${url.pathname}${url.search}${url.hash}`;
}

/** Links in the page's head lead to the same session. */
export function markHead() {
  for (const link of document.querySelectorAll("header.top a:not([data-all])")) link.href = at(link.getAttribute("href"));
  if (session) byId("session").textContent = session;
}

/** Shows in the page's head whether somebody answers: what is wrong in words, or empty, and what is said while all is well. */
export function showLink(lost, well = "● live") {
  document.body.classList.toggle("is-lost", Boolean(lost));
  byId("lost").hidden = !lost;
  if (lost) say(byId("lost"), lost);
  byId("link").className = lost ? "link lost-link" : "link live-link";
  say(byId("link"), lost ? "✕ no connection" : well);
}

export function micrographLink(path) {
  return at(`/micrograph?${new URLSearchParams({ path })}`);
}

export const STATES = {
  picked: "picked",
  seen: "in line",
  waiting: "incomplete",
  failed: "failed, tried again",
  quarantined: "failed",
  gone: "file gone",
};

/** What the daemon answers, or an error with its own words. */
export async function ask(url, options) {
  const answer = await fetch(at(url), options);
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw Object.assign(new Error(body?.error ?? `the daemon answered ${answer.status}`), { status: answer.status });
  if (body === null) throw new Error("the daemon’s answer was cut off"); // it was killed meanwhile
  return body;
}

let signIn = null;

/** Sets what asks for the token: resolves to whether the browser is signed in then. */
export function whenTokenIsNeeded(asks) {
  signIn = asks;
}

/** Asks the daemon to change something; whoever is not signed in is asked for the token first. */
export async function post(url, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  try {
    return await ask(url, options);
  } catch (error) {
    if (error.status !== 401 || !signIn) throw error;
    if (!(await signIn())) throw Object.assign(new Error("changes need the token of this daemon"), { status: 401, gaveUp: true });
    return await ask(url, options);
  }
}

/** `1 pick`, `2 picks`. */
export function counted(count, one, many = `${one}s`) {
  return `${grouped(count)} ${count === 1 ? one : many}`;
}
