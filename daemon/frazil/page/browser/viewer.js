// A micrograph with what was found in it, all in pixels of the micrograph, so that nothing can lie elsewhere.

import { ask, at, drawing, element, say } from "/static/dom.js";

export const CLASSES = 5;

/** Class of a score between the threshold and 1: 0 is the lowest. */
export function classOf(score, threshold) {
  const share = (score - threshold) / Math.max(1e-6, 1 - threshold);
  return Math.max(0, Math.min(CLASSES - 1, Math.floor(share * CLASSES)));
}

/** Circles as one path: a browser draws a thousand at once faster than one by one. */
export function circles(ys, xs, radius, chosen = () => true) {
  const r = radius.toFixed(2);
  const d = (2 * radius).toFixed(2);
  let path = "";
  for (let i = 0; i < ys.length; i++) {
    if (chosen(i)) path += `M${(xs[i] - radius).toFixed(2)} ${ys[i].toFixed(2)}a${r} ${r} 0 1 0 ${d} 0a${r} ${r} 0 1 0 -${d} 0`;
  }
  return path;
}

/** The picks of an overlay as SVG: a dark rim below, one path for each class of score above it. */
export function drawPicks(picks, threshold, diameter) {
  const radius = diameter / 2;
  const group = drawing("g", { class: "picks" });
  group.append(drawing("path", { class: "rim", d: circles(picks.y, picks.x, radius) }));
  for (let k = 0; k < CLASSES; k++) {
    const d = circles(picks.y, picks.x, radius, (i) => classOf(picks.score[i], threshold) === k);
    if (d) group.append(drawing("path", { class: `pick class-${k}`, d }));
  }
  return group;
}

export function drawHidden(hidden, diameter) {
  const d = circles(hidden.y, hidden.x, diameter / 2);
  return drawing("g", { class: "hidden" }, drawing("path", { class: "rim", d }), drawing("path", { class: "missed", d }));
}

/** An SVG in pixels of the micrograph: the middle of pixel (0, 0) is at 0, 0. */
export function canvas([h, w], label) {
  const svg = drawing("svg", { viewBox: `-0.5 -0.5 ${w} ${h}`, role: "img", "aria-label": label, class: "canvas" });
  svg.style.aspectRatio = `${w} / ${h}`;
  return svg;
}

export function photograph([h, w], href) {
  return drawing("image", { x: -0.5, y: -0.5, width: w, height: h, href, preserveAspectRatio: "none", class: "photograph" });
}

export function pictureAddress(seq, epoch, size) {
  return at(`/api/picture/${seq}?${new URLSearchParams({ size, epoch })}`);
}

/** Why a picture did not come, in the daemon's words. */
export async function whyNoPicture(address) {
  try {
    await ask(address);
    return "";
  } catch (error) {
    return error.message;
  }
}

/** Shows one micrograph large, with switches and zoom. */
export class Viewer {
  constructor(where, epoch) {
    this.epoch = epoch;
    this.shown = { picks: true, hidden: false, map: false, ruler: false };
    this.stage = element("div", { class: "stage" });
    this.reading = element("output", { class: "reading" }, "");
    this.note = element("p", { class: "note", role: "status", hidden: true });
    this.legend = element("ul", { class: "legend", "aria-label": "What the circles mean" });
    this.switches = {
      picks: this.#switch("picks", "Picks", "p"),
      hidden: this.#switch("hidden", "Below the threshold", "b"),
      map: this.#switch("map", "Score map", "m"),
      ruler: this.#switch("ruler", "Measure a particle", "c"),
    };
    const zooms = element(
      "span",
      { class: "zooms", role: "group", "aria-label": "Zoom" },
      element("button", { type: "button", "aria-label": "Zoom out", onclick: () => this.zoom(1 / 1.5) }, "−"),
      element("button", { type: "button", "aria-label": "Show all of it", onclick: () => this.reset() }, "1:1"),
      element("button", { type: "button", "aria-label": "Zoom in", onclick: () => this.zoom(1.5) }, "+"),
    );
    const tools = element("div", { class: "tools" }, ...Object.values(this.switches).map((s) => s.label), zooms);
    where.replaceChildren(tools, this.stage, this.note, this.legend, this.reading);
  }

  #switch(name, says, key) {
    const box = element("input", { type: "checkbox", name, "aria-keyshortcuts": key });
    box.checked = this.shown[name];
    box.addEventListener("change", () => {
      this.shown[name] = box.checked;
      this.#draw();
    });
    return { box, label: element("label", {}, box, ` ${says}`) };
  }

  /** Shows a result; keeps switches. */
  async show(seq) {
    this.wanted = seq;
    this.other = this.measured = null;
    const overlay = await ask(`/api/overlay/${seq}?hidden=1`);
    if (this.wanted !== seq) return null;
    this.overlay = overlay;
    const [h, w] = overlay.shape;
    this.svg = canvas(overlay.shape, "");
    this.svg.setAttribute("tabindex", "0");
    this.svg.setAttribute("aria-roledescription", "micrograph: arrows move, plus and minus zoom, 0 shows all");
    this.stage.style.setProperty("--wide", w / h);
    const address = pictureAddress(seq, this.epoch, "large");
    const photo = photograph(overlay.shape, address);
    this.note.hidden = true;
    photo.addEventListener("error", async () => {
      const why = await whyNoPicture(address);
      if (this.wanted !== seq) return;
      say(this.note, `No picture: ${why || "it could not be loaded"}. Picks are drawn without it.`);
      this.note.hidden = false;
    });
    this.layers = drawing("g", {});
    this.svg.append(drawing("rect", { x: -0.5, y: -0.5, width: w, height: h, class: "ground" }), photo, this.layers);
    this.stage.replaceChildren(this.svg);
    this.box = { x: -0.5, y: -0.5, width: w, height: h };
    this.#listen();
    this.#draw();
    this.#explain();
    return overlay;
  }

  /** Shows other picks on the same micrograph, as a preview; null goes back to its own. */
  preview(other) {
    this.other = other;
    this.#draw();
    this.#explain();
  }

  #draw() {
    if (!this.overlay) return;
    const { seq, threshold, diameter_px: diameter, score_map: map } = this.overlay;
    const { picks, hidden } = this.other ?? this.overlay;
    const layers = [];
    if (this.shown.map && map) {
      const href = at(`/api/score-map/${seq}?${new URLSearchParams({ epoch: this.epoch })}`);
      layers.push(drawing("image", { ...map, href, preserveAspectRatio: "none", class: "score-map" }));
    }
    if (this.shown.hidden && hidden) layers.push(drawHidden(hidden, diameter));
    if (this.shown.picks) layers.push(drawPicks(picks, this.other?.threshold ?? threshold, diameter));
    if (this.shown.ruler && this.measured) layers.push(drawing("circle", { ...this.measured, class: "measured" }));
    this.layers.replaceChildren(...layers);
    this.switches.hidden.box.disabled = !this.overlay.hidden;
    this.switches.map.box.disabled = !map;
    const more = hidden ? `, and ${hidden.y.length} candidates below the threshold` : "";
    this.svg.setAttribute("aria-label", `Micrograph ${this.overlay.path} with ${picks.y.length} picks as circles${more}`);
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

  // --- zoom, by wheel, fingers, buttons and keys --------------------------------------------------------------------

  #listen() {
    const held = new Map();
    const svg = this.svg;
    svg.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && document.activeElement !== svg && this.#scale() === 1) return; // let the page scroll
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 400), this.#place(event));
      },
      { passive: false },
    );
    let edge = null;
    svg.addEventListener("pointerdown", (event) => {
      if (this.shown.ruler) {
        edge = this.#place(event);
        svg.setPointerCapture(event.pointerId);
        event.preventDefault();
        return;
      }
      held.set(event.pointerId, event);
      if (this.#scale() > 1 || held.size > 1) svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (edge) {
        this.#measure(edge, this.#place(event));
        return;
      }
      const before = held.get(event.pointerId);
      if (!before) {
        this.#read(this.#place(event));
        return;
      }
      const others = [...held.values()].filter((other) => other.pointerId !== event.pointerId);
      const from = this.#place(before);
      const to = this.#place(event);
      if (others.length) {
        const anchor = this.#place(others[0]);
        const apart = (p) => Math.hypot(p.x - anchor.x, p.y - anchor.y);
        this.zoom(apart(to) / Math.max(1, apart(from)), anchor);
      } else if (this.#scale() > 1) {
        this.#move(from.x - to.x, from.y - to.y);
      }
      held.set(event.pointerId, event);
    });
    for (const over of ["pointerup", "pointercancel", "pointerleave"]) {
      svg.addEventListener(over, (event) => {
        held.delete(event.pointerId);
        edge = null;
      });
    }
    svg.addEventListener("click", (event) => this.shown.ruler || this.#read(this.#place(event)));
    svg.addEventListener("dblclick", (event) => this.zoom(2, this.#place(event)));
    svg.addEventListener("keydown", (event) => {
      const step = this.box.width / 8;
      const does = {
        "+": () => this.zoom(1.5),
        "=": () => this.zoom(1.5),
        "-": () => this.zoom(1 / 1.5),
        0: () => this.reset(),
        ArrowLeft: () => this.#move(-step, 0),
        ArrowRight: () => this.#move(step, 0),
        ArrowUp: () => this.#move(0, -step),
        ArrowDown: () => this.#move(0, step),
      }[event.key];
      const named = Object.values(this.switches).find((s) => s.box.getAttribute("aria-keyshortcuts") === event.key);
      if (does) does();
      else if (named) named.box.click();
      else return;
      event.preventDefault();
    });
  }

  /** Draws the circle from one edge of a particle to the other, and says its diameter. */
  #measure(from, to) {
    const px = Math.hypot(to.x - from.x, to.y - from.y);
    this.measured = { cx: (from.x + to.x) / 2, cy: (from.y + to.y) / 2, r: px / 2 };
    this.#draw();
    say(this.reading, `${(px * this.overlay.pixel_size_angstrom).toFixed(0)} Å, ${px.toFixed(1)} px`);
  }

  #scale() {
    return this.overlay.shape[1] / this.box.width;
  }

  /** Where an event lies, in pixels of the micrograph. */
  #place(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    return { x: point.x, y: point.y };
  }

  zoom(factor, at = { x: this.box.x + this.box.width / 2, y: this.box.y + this.box.height / 2 }) {
    const [h, w] = this.overlay.shape;
    const width = Math.min(w, Math.max(this.overlay.diameter_px * 1.5, this.box.width / factor));
    const share = width / this.box.width;
    this.box = { x: at.x - (at.x - this.box.x) * share, y: at.y - (at.y - this.box.y) * share, width, height: (width * h) / w };
    this.#move(0, 0);
  }

  #move(dx, dy) {
    const [h, w] = this.overlay.shape;
    const { box } = this;
    box.x = Math.max(-0.5, Math.min(w - 0.5 - box.width, box.x + dx));
    box.y = Math.max(-0.5, Math.min(h - 0.5 - box.height, box.y + dy));
    this.svg.setAttribute("viewBox", `${box.x} ${box.y} ${box.width} ${box.height}`);
    this.svg.classList.toggle("zoomed", this.#scale() > 1);
  }

  reset() {
    const [h, w] = this.overlay.shape;
    this.box = { x: -0.5, y: -0.5, width: w, height: h };
    this.#move(0, 0);
  }

  /** Says the score of the pick, or candidate, that is pointed at. */
  #read({ x, y }) {
    const { picks, hidden } = this.other ?? this.overlay;
    let best = { distance: this.overlay.diameter_px / 2, text: "" };
    const look = (columns, what) => {
      for (let i = 0; i < columns.y.length; i++) {
        const distance = Math.hypot(columns.y[i] - y, columns.x[i] - x);
        if (distance < best.distance) {
          const at = `y ${columns.y[i].toFixed(1)}, x ${columns.x[i].toFixed(1)} px`;
          best = { distance, text: `${what} with score ${columns.score[i].toFixed(3)} at ${at}` };
        }
      }
    };
    if (this.shown.picks) look(picks, "Pick");
    if (this.shown.hidden && hidden) look(hidden, "Candidate");
    say(this.reading, best.text);
  }
}

function sample(kind) {
  const shape = { cx: 12, cy: 12, r: 9 };
  return drawing(
    "svg",
    { viewBox: "0 0 24 24", width: 24, height: 24, "aria-hidden": "true", class: "sample" },
    drawing("circle", { ...shape, class: "rim" }),
    drawing("circle", { ...shape, class: kind }),
  );
}
