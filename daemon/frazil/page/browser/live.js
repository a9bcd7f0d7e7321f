// The link to the daemon: what it does now, and plain words when it is gone.

import { ask, at, clock, markHead, setClock, showLink, span } from "/static/dom.js";
import { offerSignIn } from "/static/sign_in.js";

const SILENCE_SECONDS = 12; // the daemon says something every five
const AGAIN_SECONDS = 3;

/** Calls `show(now)` whenever something changed, and `tick()` every second while the link lives. */
export function follow(show, tick = () => {}) {
  let heard = Date.now();
  let lastWord = 0;
  let ended = false;
  let events = null;
  let crowded = false;

  function hear(daemonSeconds) {
    heard = Date.now();
    lastWord = daemonSeconds;
    ended = false;
    setClock(daemonSeconds);
    setLost(false);
  }

  function setLost(lost) {
    if (!lost) {
      showLink("", crowded ? "● every 10 s" : "● live");
      return;
    }
    const since = lastWord ? ` What you see here is as of ${clock(lastWord)}, ${span((Date.now() - heard) / 1000)} ago.` : "";
    const what = ended ? "The daemon has been stopped." : "The daemon does not answer: it was stopped or has crashed, or the network is down.";
    showLink(`${what}${since} This page goes on by itself when it is back.`);
  }

  function connect() {
    events?.close();
    events = new EventSource(at("/events"));
    events.addEventListener("now", (event) => {
      crowded = false;
      hear(Number(event.lastEventId));
      show(JSON.parse(event.data));
    });
    events.addEventListener("beat", (event) => hear(Number(event.data)));
    events.addEventListener("end", () => {
      ended = true;
      setLost(true);
      events.close();
      setTimeout(connect, AGAIN_SECONDS * 1000);
    });
    events.addEventListener("error", () => {
      if (!crowded && Date.now() - heard > AGAIN_SECONDS * 1000) setLost(true);
      // A refused stream is not tried again by browsers.
      if (events.readyState === EventSource.CLOSED && !ended) setTimeout(askInstead, AGAIN_SECONDS * 1000);
    });
  }

  async function askInstead() {
    try {
      const now = await ask("/api/now");
      crowded = true;
      hear(Date.now() / 1000);
      show(now);
      setTimeout(connect, 10000);
    } catch {
      connect();
    }
  }

  setInterval(() => {
    if ((Date.now() - heard) / 1000 > SILENCE_SECONDS || document.body.classList.contains("is-lost")) setLost(true);
    else tick();
  }, 1000);
  markHead();
  offerSignIn();
  connect();
  addEventListener("pagehide", () => events?.close());
  addEventListener("pageshow", (event) => event.persisted && connect());
}
