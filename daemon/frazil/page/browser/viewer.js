// A micrograph with what was found in it, all in pixels of the micrograph, so that nothing can lie elsewhere.

import { canvas, CLASSES, drawCorrections, drawCross, drawHidden, drawJunk, drawPicks, photograph, pictureAddress, sample, whyNoPicture } from "/static/circles.js";
import { ask, at, counted, drawing, element, say } from "/static/dom.js";
import { nearest, withEdits } from "/static/edits.js";
import { Look } from "/static/look.js";

const CLOSEST_PX = 24; // shown across the stage at least
const VALUE_MS = 90;
const SETTLED_MS = 120;
const NEAR_OUTLINE_PX = 4; // of the screen, between corners of an outline
const MOST_CORNERS = 200;
const NANOMETRES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/** What the pointer does, by its key. */
export const MODES = { look: ["Look", "l"], pick: ["Add and delete picks", "e"], junk: ["Outline junk", "x"], ruler: ["Measure a particle", "c"] };

/**
 * Shows one micrograph large, with switches and zoom. Where `correct(edit)` is given, picks can be corrected, and
 * `pending(path)` gives the edits that are not granted as yet; `moved(box)` is told which part is looked at.
 */
export class Viewer {
  constructor(where, epoch, { correct = null, pending = () => [], moved = () => {}, compact = false } = {}) {
    this.epoch = epoch;
    this.correct = correct;
    this.pending = pending;
    this.moved = moved;
    this.mode = "look";
    this.shown = { picks: true, hidden: false, map: false, junk: true, corrections: true };
    this.look = new Look(() => this.#settle());
    this.stage = element("div", { class: "stage" });
    this.bar = element("div", { class: "scale-bar", "aria-hidden": "true" });
    this.loading = element("p", { class: "loading", role: "status", hidden: true }, "Loading the picture …");
        this.reading = element("output", { class: "reading" }, "");
    this.note = element("p", { class: "note", role: "status", hidden: true });
    this.legend = element("ul", { class: "legend", "aria-label": "What the circles mean" });
    this.switches = {
      picks: this.#switch("picks", "Picks", "p", "Circles of the particle’s size around the picks"),
      hidden: this.#switch("hidden", "Below the threshold", "t", "Candidates whose score does not reach the threshold"),
      map: this.#switch("map", "Score map", "m", "The model’s scores, the lighter the higher"),
      junk: this.#switch("junk", "Junk", "u", "Where a model found what no particle can be picked in"),
    };
    if (correct) this.switches.corrections = this.#switch("corrections", "Corrections", "o", "What people added, took away and outlined");
    const button = (says, label, act, title) => element("button", { type: "button", "aria-label": label, title, onclick: act }, says);
    const zooms = element(
      "span",
      { class: "zooms", role: "group", "aria-label": "Zoom" },
      button("−", "Zoom out", () => this.zoom(1 / 1.5), "Zoom out (−)"),
      button("Fit", "Fit all of it", () => this.reset(), "All of the micrograph (0)"),
      button("1:1", "1:1, one to one", () => this.oneToOne(), "One pixel of the screen for each pixel of the file (1)"),
      button("+", "Zoom in", () => this.zoom(1.5), "Zoom in (+)"),
    );
    this.frame = element("div", { class: "frame" }, this.stage, zooms, this.bar, this.loading);
    this.tools = element("div", { class: "tools" }, ...Object.values(this.switches).map((s) => s.label));
    this.lookTools = element("div", { class: "look-place" });
    const bars = element("div", { class: "bars" }, ...(compact ? [] : [this.#modes()]), this.tools);
    const parts = compact ? [bars, this.frame, this.note, this.reading] : [bars, this.frame, this.note, this.lookTools, this.legend, this.reading];
    where.replaceChildren(...parts);
    this.compact = compact;
    addEventListener("resize", () => this.overlay && this.#settle());
  }

  #switch(name, says, key, title) {
    const box = element("input", { type: "checkbox", name, "aria-keyshortcuts": key });
    box.checked = this.shown[name];
    box.addEventListener("change", () => {
      this.shown[name] = box.checked;
      this.draw();
    });
    return { box, label: element("label", { title: `${title} (${key})` }, box, ` ${says}`) };
  }

  #modes() {
    const titles = {
      look: "Drag to move, wheel to zoom",
      pick: "A click adds a pick; a click on a pick takes it away",
      junk: "Drag around what holds no particles: picks in it are taken away, and none are made there",
      ruler: "Drag from one edge of a particle to the other",
    };
    const names = this.correct ? Object.keys(MODES) : ["look", "ruler"];
    this.modes = Object.fromEntries(
      names.map((name) => {
        const [says, key] = MODES[name];
        const input = element("input", { type: "radio", name: "mode", value: name, "aria-keyshortcuts": key, onchange: () => this.setMode(name) });
        input.checked = name === this.mode;
        return [name, { input, label: element("label", { title: `${titles[name]} (${key})` }, input, ` ${says}`) }];
      }),
    );
    return element("div", { class: "tools modes", role: "radiogroup", "aria-label": "What the pointer does" }, ...Object.values(this.modes).map(({ label }) => label));
  }

  setMode(name) {
    this.mode = name;
    if (this.modes?.[name]) this.modes[name].input.checked = true;
    this.measured = this.outline = this.cursor = null;
    if (this.overlay) this.draw();
    this.svg?.setAttribute("data-mode", name);
    if (name === "pick") this.svg?.focus({ preventScroll: true });
  }

  /** What a key does here; false where it does nothing. */
  press(key) {
    const named = Object.values(this.switches).find((s) => s.box.getAttribute("aria-keyshortcuts") === key);
    const mode = Object.keys(this.modes ?? {}).find((name) => MODES[name][1] === key);
    if (named) named.box.click();
    else if (mode) this.setMode(mode);
    else if (key === "Escape") this.setMode("look");
    else if (key === "+" || key === "=") this.zoom(1.5);
    else if (key === "-") this.zoom(1 / 1.5);
    else if (key === "0") this.reset();
    else if (key === "1") this.oneToOne();
    else return false;
    return true;
  }

  /** Shows a result; keeps switches and, of the same micrograph, what part of it is looked at. */
  async show(seq, box = null) {
    this.wanted = seq;
    this.other = this.measured = this.outline = null;
    const overlay = await ask(`/api/overlay/${seq}?hidden=1`);
    if (this.wanted !== seq) return null;
    const same = this.overlay?.path === overlay.path && String(this.overlay.shape) === String(overlay.shape);
    this.overlay = overlay;
    if (!same) this.cursor = null;
    const [h, w] = overlay.shape;
    this.note.hidden = true;
    this.layers = drawing("g", {});
    const hadFocus = document.activeElement === this.svg;
    this.svg = canvas(overlay.shape, "");
    this.svg.setAttribute("tabindex", "0");
    this.svg.setAttribute("aria-roledescription", "micrograph: plus and minus zoom, arrows move what is zoomed, 0 shows all");
    this.svg.setAttribute("data-mode", this.mode);
    this.frame.style.setProperty("--wide", w / h);
    this.svg.append(drawing("rect", { x: -0.5, y: -0.5, width: w, height: h, class: "ground" }), this.look.show(overlay, this.epoch, ...this.#photographs(seq)), this.layers);
    this.stage.replaceChildren(this.svg);
    if (hadFocus) this.svg.focus();
    if (!this.compact) this.lookTools.replaceChildren(this.look.controls());
    if (box) this.box = { ...box, height: (box.width * h) / w };
    else if (!same) this.box = { x: -0.5, y: -0.5, width: w, height: h };
    this.#listen();
    this.#move(0, 0);
    this.draw();
    this.#explain();
    return overlay;
  }

  /** The thumbnail, which is there at once, and above it the picture. What comes by itself comes without: nobody waits. */
  #photographs(seq) {
    const { shape } = this.overlay;
    const address = pictureAddress(seq, this.epoch, "large");
    const comesByItself = this.compact && this.pictured;
    const small = comesByItself ? null : photograph(shape, pictureAddress(seq, this.epoch, "small"));
    const large = photograph(shape, address);
    small?.setAttribute("class", "preview");
    this.loading.hidden = false;
    small?.addEventListener("error", () => small.remove());
    this.pictured = new Promise((resolve) => {
      large.addEventListener("load", () => {
        if (this.wanted === seq) this.loading.hidden = true;
        resolve();
      });
      large.addEventListener("error", async () => {
        large.remove();
        resolve();
        const why = await whyNoPicture(address);
        if (this.wanted !== seq) return;
        this.loading.hidden = true;
        say(this.note, `No picture: ${why || "it could not be loaded"}. Picks are drawn without it.`);
        this.note.hidden = false;
      });
    });
    return [small, large].filter(Boolean);
  }

  /** Shows other picks on the same micrograph, as a preview; null goes back to its own. */
  preview(other) {
    this.other = other;
    this.draw();
    this.#explain();
  }

  /** Draws picks anew, with the edits that are pending. */
  draw() {
    if (!this.overlay) return;
    const { seq, threshold, diameter_px: diameter, score_map: map, junk, path } = this.overlay;
    const { hidden } = this.other ?? this.overlay;
    this.edited = withEdits(this.overlay, this.pending(path));
    const picks = this.other?.picks ?? (this.edited.mark === "bad" ? { y: [], x: [], score: [] } : this.edited.picks);
    const layers = [];
    if (this.shown.map && map) {
      const href = at(`/api/score-map/${seq}?${new URLSearchParams({ epoch: this.epoch })}`);
      layers.push(drawing("image", { ...map, href, preserveAspectRatio: "none", class: "score-map" }));
    }
    if (this.shown.junk && junk?.outlines.length) layers.push(drawJunk(junk.outlines));
    if (this.shown.hidden && hidden) layers.push(drawHidden(hidden, diameter));
    if (this.shown.picks) layers.push(drawPicks(picks, this.other?.threshold ?? threshold, diameter));
    if (this.shown.corrections && this.edited.mark !== "bad") layers.push(drawCorrections(this.edited, diameter));
    if (this.mode === "ruler" && this.measured) layers.push(drawing("circle", { ...this.measured.circle, class: "measured" }), drawing("line", { ...this.measured.line, class: "measured" }));
    if (this.cursor) layers.push(drawCross(this.cursor, diameter));
    if (this.outline) layers.push(drawing("polyline", { class: "junk", points: this.outline.map(([y, x]) => `${x},${y}`).join(" ") }));
    this.layers.replaceChildren(...layers);
    this.svg.classList.toggle("is-bad", this.edited.mark === "bad");
    this.switches.hidden.box.disabled = !this.overlay.hidden;
    this.switches.map.box.disabled = !map;
    this.switches.junk.box.disabled = !junk?.outlines.length;
    const more = hidden ? `, and ${counted(hidden.y.length, "candidate")} below the threshold` : "";
    this.svg.setAttribute("aria-label", `Micrograph ${path} with ${counted(picks.y.length, "pick")} as circles${more}`);
  }

  #explain() {
    const threshold = this.other?.threshold ?? this.overlay.threshold;
    const step = (1 - threshold) / CLASSES;
    const { hidden } = this.other ?? this.overlay;
    this.legend.replaceChildren(
      ...Array.from({ length: CLASSES }, (_, k) => CLASSES - 1 - k).map((k) =>
        element("li", {}, sample(`pick class-${k}`), `${(threshold + k * step).toFixed(2)}–${(threshold + (k + 1) * step).toFixed(2)}`),
      ),
      ...(hidden ? [element("li", {}, sample("missed"), "below the threshold")] : []),
    );
  }

  // --- zoom, by wheel, fingers, buttons and keys; and what the pointer does -------------------------------------------

  #listen() {
    const held = new Map();
    const svg = this.svg;
    svg.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && document.activeElement !== svg && !this.#isZoomed()) return; // let the page scroll
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 400), this.#place(event));
      },
      { passive: false },
    );
    let from = null;
    let wasDragged = false;
    svg.addEventListener("pointerdown", (event) => {
      wasDragged = false;
      if (this.mode === "ruler" || this.mode === "junk") {
        from = this.#place(event);
        this.outline = this.mode === "junk" ? [[from.y, from.x]] : null;
        svg.setPointerCapture(event.pointerId);
        event.preventDefault();
        return;
      }
      held.set(event.pointerId, event);
      if (this.#isZoomed() || held.size > 1) svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (from && this.mode === "junk") return this.#outline(this.#place(event));
      if (from) return this.#measure(from, this.#place(event));
      const before = held.get(event.pointerId);
      if (!before) return this.#read(this.#place(event));
      if (!wasDragged && Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY) < 3) return undefined;
      wasDragged = true;
      const others = [...held.values()].filter((other) => other.pointerId !== event.pointerId);
      const was = this.#place(before);
      const to = this.#place(event);
      if (others.length) {
        const anchor = this.#place(others[0]);
        const apart = (p) => Math.hypot(p.x - anchor.x, p.y - anchor.y);
        this.zoom(apart(to) / Math.max(1, apart(was)), anchor);
      } else if (this.#isZoomed()) {
        this.#move(was.x - to.x, was.y - to.y);
      }
      held.set(event.pointerId, event);
      return undefined;
    });
    for (const over of ["pointerup", "pointercancel", "pointerleave"]) {
      svg.addEventListener(over, (event) => {
        held.delete(event.pointerId);
        if (from && this.outline && over !== "pointerleave") this.#junk(over === "pointerup");
        if (over !== "pointerleave") from = null;
      });
    }
    svg.addEventListener("click", (event) => {
      if (this.mode === "pick" && !wasDragged) this.#change(this.#place(event));
      else if (this.mode === "look") this.#read(this.#place(event));
    });
    svg.addEventListener("dblclick", (event) => this.mode === "look" && this.zoom(2, this.#place(event)));
    svg.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (this.mode === "pick" && by) this.#moveCursor(...by, event.shiftKey);
      else if (this.mode === "pick" && event.key === "Enter" && this.cursor) this.#change(this.cursor);
      else if (by && this.#isZoomed()) this.#move((by[0] * this.box.width) / 8, (by[1] * this.box.width) / 8);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  /** Moves the cross that keys point with: by a quarter of a particle, or by a screen's pixel or two. */
  #moveCursor(right, down, isFine) {
    const [h, w] = this.overlay.shape;
    const step = isFine ? 2 / this.#scale() : this.overlay.diameter_px / 4;
    const { x, y } = this.cursor ?? this.#middle();
    const most = (value, last) => Math.max(0, Math.min(last, value));
    this.cursor = { x: most(x + right * step, w - 1), y: most(y + down * step, h - 1) };
    const beyond = (at, from, length) => Math.min(0, at - from) + Math.max(0, at - from - length);
    this.#move(beyond(this.cursor.x, this.box.x, this.box.width), beyond(this.cursor.y, this.box.y, this.box.height));
    this.draw();
    this.#read(this.cursor);
  }

  /** Adds a pick, or takes away the one that is pointed at. */
  #change({ y, x }) {
    const [h, w] = this.overlay.shape;
    if (y < 0 || x < 0 || y > h - 1 || x > w - 1) return;
    const { picks } = this.edited;
    const i = nearest(picks, y, x, this.overlay.diameter_px / 2);
    const place = i < 0 ? { y: round(y), x: round(x) } : { y: picks.y[i], x: picks.x[i] };
    this.correct({ kind: i < 0 ? "add" : "delete", ...place });
  }

  #outline({ y, x }) {
    const [h, w] = this.overlay.shape;
    const corner = [round(Math.max(0, Math.min(h - 1, y))), round(Math.max(0, Math.min(w - 1, x)))];
    const [before] = this.outline.slice(-1);
    const apart = Math.hypot(corner[0] - before[0], corner[1] - before[1]) * this.#scale();
    if (apart < NEAR_OUTLINE_PX) return;
    this.outline.push(corner);
    this.draw();
  }

  #junk(isWhole) {
    const every = Math.ceil(this.outline.length / MOST_CORNERS);
    const outline = this.outline.filter((_, k) => k % every === 0).map(([y, x]) => [round(Math.max(0, y)), round(Math.max(0, x))]);
    this.outline = null;
    if (isWhole && outline.length >= 3) this.correct({ kind: "junk", outline });
    else this.draw();
  }

  /** Draws a ruler and the circle around it, and says how long it is. */
  #measure(from, to) {
    const px = Math.hypot(to.x - from.x, to.y - from.y);
    this.measured = {
      circle: { cx: (from.x + to.x) / 2, cy: (from.y + to.y) / 2, r: px / 2 },
      line: { x1: from.x, y1: from.y, x2: to.x, y2: to.y },
    };
    this.draw();
    const angstrom = px * this.overlay.pixel_size_angstrom;
    say(this.reading, `${angstrom.toFixed(0)} Å (${(angstrom / 10).toFixed(1)} nm), ${px.toFixed(1)} px`);
  }

  /** Pixels of the screen for each of the micrograph. */
  #scale() {
    return (this.svg.getBoundingClientRect().width * devicePixelRatio) / this.box.width;
  }

  #isZoomed() {
    return this.box.width < this.overlay.shape[1] - 0.5;
  }

  /** Where an event lies, in pixels of the micrograph. */
  #place(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    return { x: point.x, y: point.y };
  }

  #middle() {
    return { x: this.box.x + this.box.width / 2, y: this.box.y + this.box.height / 2 };
  }

  zoom(factor, place = this.#middle()) {
    const [h, w] = this.overlay.shape;
    const width = Math.min(w, Math.max(CLOSEST_PX, this.box.width / factor));
    const share = width / this.box.width;
    this.box = { x: place.x - (place.x - this.box.x) * share, y: place.y - (place.y - this.box.y) * share, width, height: (width * h) / w };
    this.#move(0, 0);
  }

  /** One pixel of the screen for each of the file, on the screen's own grid. */
  oneToOne() {
    const edges = this.svg.getBoundingClientRect();
    this.zoom(this.box.width / (edges.width * devicePixelRatio));
    const beyond = (length) => Math.ceil(length * devicePixelRatio) - length * devicePixelRatio;
    const [x, y] = [Math.round(this.box.x) - 0.5 - beyond(edges.left), Math.round(this.box.y) - 0.5 - beyond(edges.top)];
    this.#move(x - this.box.x, y - this.box.y);
  }

  #move(dx, dy) {
    const [h, w] = this.overlay.shape;
    const { box } = this;
    box.x = Math.max(-0.5, Math.min(w - 0.5 - box.width, box.x + dx));
    box.y = Math.max(-0.5, Math.min(h - 0.5 - box.height, box.y + dy));
    this.svg.setAttribute("viewBox", `${box.x} ${box.y} ${box.width} ${box.height}`);
    this.svg.classList.toggle("zoomed", this.#isZoomed());
    this.#settle();
  }

  /** Once it rests: tiles for what is looked at, and a scale bar. */
  #settle() {
    this.#showBar();
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      if (!this.svg?.clientWidth) return;
      this.look.view(this.box, this.#scale());
      this.moved(this.#isZoomed() ? this.box : null);
    }, SETTLED_MS);
  }

  #showBar() {
    const { pixel_size_angstrom: pixel } = this.overlay;
    const across = (this.box.width * pixel) / 10; // nm
    const length = NANOMETRES.findLast((nm) => nm <= across / 4) ?? across / 4;
    this.bar.style.width = `${((length / across) * this.svg.clientWidth).toFixed(1)}px`;
    say(this.bar, `${length < 1 ? length.toFixed(1) : Math.round(length)} nm`);
  }

  reset() {
    const [h, w] = this.overlay.shape;
    this.box = { x: -0.5, y: -0.5, width: w, height: h };
    this.#move(0, 0);
  }

  /** Says the score of the pick, or candidate, that is pointed at, and the file's value there. */
  #read({ x, y }) {
    const { hidden } = this.other ?? this.overlay;
    const picks = this.other?.picks ?? this.edited.picks;
    let text = "";
    const within = this.overlay.diameter_px / 2;
    const tell = (columns, what) => {
      const i = nearest(columns, y, x, within);
      if (i >= 0) text ||= `${what} with score ${columns.score[i].toFixed(3)} at y ${columns.y[i].toFixed(1)}, x ${columns.x[i].toFixed(1)} px. `;
    };
    if (this.shown.picks) tell(picks, "Pick");
    if (this.shown.hidden && hidden) tell(hidden, "Candidate");
    this.pointed = { y: Math.round(y), x: Math.round(x), text };
    say(this.reading, text);
    clearTimeout(this.valuing);
    if (!this.compact) this.valuing = setTimeout(() => this.#value(this.pointed), VALUE_MS);
  }

  async #value(place) {
    const [h, w] = this.overlay.shape;
    if (place.y < 0 || place.x < 0 || place.y >= h || place.x >= w || !this.note.hidden) return;
    try {
      const { value } = await ask(`/api/value/${this.overlay.seq}?${new URLSearchParams({ y: place.y, x: place.x, epoch: this.epoch })}`);
      if (place === this.pointed && this.mode !== "ruler") say(this.reading, `${place.text}y ${place.y}, x ${place.x}: value ${Number(value.toPrecision(6))}`);
    } catch {
      // the file is gone, of which the picture tells
    }
  }
}

function round(px) {
  return Math.round(px * 10) / 10;
}

