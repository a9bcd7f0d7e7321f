// Corrections: what a person changes is shown at once, sent to the daemon, and said to be saved when it has it.

import { ask, post, session } from "/static/dom.js";

const NAME = "frazil-name";
const AGAIN_SECONDS = 3;
const MOST_AT_ONCE = 1000;

/** Who corrects, as they call themselves in this browser. */
export function corrector() {
  return localStorage.getItem(NAME) ?? "";
}

export function setCorrector(name) {
  localStorage.setItem(NAME, name.trim().slice(0, 60));
}

function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Edits of this browser that the daemon has not granted as yet, those of every micrograph. */
export class Edits {
  /** `changed(path)` is called when there is something else to show. */
  constructor(changed) {
    this.changed = changed;
    this.unsent = [];
    this.sent = [];
    this.last = []; // what may be undone, the newest last
    this.undone = new Set(); // ids of what is being undone, so that no edit is undone twice
    this.fault = "";
    this.sending = false;
    addEventListener("beforeunload", (event) => this.unsent.length && event.preventDefault());
  }

  /** Leaves edits: objects with `path`, `seq`, `kind` and what that takes. */
  make(...edits) {
    const made = edits.map((edit) => ({ id: newId(), ...edit }));
    this.unsent.push(...made);
    this.last.push(...made.filter(({ kind }) => kind !== "undo"));
    for (const path of new Set(made.map((edit) => edit.path))) this.changed(path);
    this.#send();
    return made;
  }

  /** Undoes the newest edit of a micrograph that nobody has undone; false where there is none. */
  async undo(path, seq) {
    const mayBe = ({ id, kind }) => kind !== "undo" && !this.undone.has(id);
    let newest = this.last.findLast((edit) => edit.path === path && mayBe(edit));
    if (!newest) {
      const { edits } = await ask(`/api/edits?${new URLSearchParams({ path })}`);
      newest = edits.findLast((edit) => mayBe(edit) && !edit.undone_by);
    }
    if (!newest) return false;
    this.undone.add(newest.id);
    this.make({ path, seq, kind: "undo", edit: newest.id });
    return true;
  }

  /** Those of a micrograph, in order. */
  of(path) {
    return [...this.sent, ...this.unsent].filter((edit) => edit.path === path);
  }

  /** Those of a micrograph that the daemon has granted: its newest result has them by now. */
  async granted(path) {
    const sent = this.sent.filter((edit) => edit.path === path);
    if (!sent.length) return [];
    const { waiting } = await ask(`/api/edits?${new URLSearchParams({ path })}`);
    return waiting ? [] : sent;
  }

  /** Forgets edits that are drawn as part of a result. */
  drop(granted) {
    this.sent = this.sent.filter((edit) => !granted.includes(edit));
  }

  async #send() {
    if (this.sending) return;
    this.sending = true;
    while (this.unsent.length) {
      const some = this.unsent.slice(0, MOST_AT_ONCE);
      try {
        const { merged, refused } = await post("/api/edits", { by: corrector(), edits: some });
        this.unsent = this.unsent.slice(some.length);
        const not = new Set(refused.map(({ id }) => id));
        this.sent.push(...some.filter(({ id }) => !not.has(id)));
        this.last = this.last.filter(({ id }) => !not.has(id));
        this.fault = refused.length ? `Not taken: ${refused[0].why}.` : "";
        this.merged = merged;
      } catch (error) {
        this.fault = `Not saved as yet: ${error.message}.`;
        if (error.gaveUp) {
          // Whoever does not sign in does not correct: nothing is shown that will never be.
          this.last = this.last.filter((edit) => !this.unsent.includes(edit));
          this.unsent = [];
        } else if (error.status >= 400 && error.status < 500) {
          this.unsent = this.unsent.slice(some.length);
        } else {
          for (const path of new Set(some.map((edit) => edit.path))) this.changed(path);
          await new Promise((resolve) => setTimeout(resolve, AGAIN_SECONDS * 1000));
        }
      }
      for (const path of new Set(some.map((edit) => edit.path))) this.changed(path);
    }
    this.sending = false;
  }
}

/** Whether a place lies in an outline of [y, x] corners. */
export function isInside(outline, y, x) {
  let inside = false;
  for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
    const [yi, xi] = outline[i];
    const [yj, xj] = outline[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

/** The index of the pick nearest to a place, within a distance; -1 where there is none. */
export function nearest(picks, y, x, within) {
  let best = -1;
  let shortest = within;
  for (let i = 0; i < picks.y.length; i++) {
    const distance = Math.hypot(picks.y[i] - y, picks.x[i] - x);
    if (distance <= shortest) [best, shortest] = [i, distance];
  }
  return best;
}

/** What an overlay will be once edits are granted: its picks, and what people changed. */
export function withEdits(overlay, edits) {
  const { picks, corrections, deleted_picks: gone } = overlay;
  const wasAdded = new Set(corrections?.added ?? []);
  let all = picks.y.map((y, i) => ({ y, x: picks.x[i], score: picks.score[i], isAdded: wasAdded.has(i) }));
  const deleted = gone ? { y: [...gone.y], x: [...gone.x], score: [...gone.score] } : { y: [], x: [], score: [] };
  const junk = [...(corrections?.junk ?? [])];
  let mark = corrections?.mark ?? "";
  const undone = new Set(edits.filter(({ kind }) => kind === "undo").map(({ edit }) => edit));
  const take = (pick) => {
    all = all.filter((other) => other !== pick);
    if (pick.isAdded) return;
    deleted.y.push(pick.y);
    deleted.x.push(pick.x);
    deleted.score.push(pick.score);
  };
  for (const edit of edits.filter(({ id, kind }) => kind !== "undo" && !undone.has(id))) {
    if (edit.kind === "add") all.push({ y: edit.y, x: edit.x, score: 1, isAdded: true });
    else if (edit.kind === "mark") mark = edit.mark;
    else if (edit.kind === "junk") {
      junk.push(edit.outline);
      for (const pick of all.filter(({ y, x }) => isInside(edit.outline, y, x))) take(pick);
    } else {
      const columns = { y: all.map(({ y }) => y), x: all.map(({ x }) => x) };
      const i = nearest(columns, edit.y, edit.x, overlay.diameter_px / 4);
      if (i >= 0) take(all[i]);
    }
  }
  return {
    picks: { y: all.map(({ y }) => y), x: all.map(({ x }) => x), score: all.map(({ score }) => score) },
    added: all.filter(({ isAdded }) => isAdded),
    deleted,
    junk,
    mark,
  };
}

/** Where exports are downloaded from. */
export function exportAddress(format, { paths = [], query = {} } = {}) {
  const asked = new URLSearchParams({ format, ...query });
  if (session) asked.set("session", session);
  for (const path of paths) asked.append("paths", path);
  return `/api/export?${asked}`;
}

export const FORMATS = { star: "RELION .star", box: "EMAN .box", cbox: "crYOLO .cbox", csv: "CSV", topaz: "Topaz .txt" };
