// How a micrograph looks: tiles of its file where the picture is too coarse, contrast, brightness and low-pass.

import { at, drawing, element } from "/static/dom.js";

const TILE_PX = 512; // as the daemon cuts them
const COARSEST_LEVEL = 6;
const PICTURE_PX = 1024; // longest side of the picture that is there at once
const MOST_TILES = 96;
const AUTOMATIC_LOWPASS = 0.2134; // of the particle's diameter: what the picture is smoothed by

/** The layer of a viewer below the picks. */
export class Look {
  /** `changed()` is called when it looks otherwise. */
  constructor(changed) {
    this.changed = changed;
    this.contrast = 1;
    this.brightness = 1;
    this.lowpass = null; // in Å; null is automatic
    this.group = drawing("g", { class: "look" });
  }

  /** Begins with another micrograph; its picture is put below the tiles. */
  show(overlay, epoch, ...pictures) {
    this.overlay = overlay;
    this.epoch = epoch;
    this.levels = new Map();
    this.tiles = drawing("g", { class: "tiles" });
    this.group = drawing("g", { class: "look" }, ...pictures, this.tiles);
    this.#filter();
    return this.group;
  }

  get automaticLowpass() {
    return Math.round(AUTOMATIC_LOWPASS * this.overlay.diameter_px * this.overlay.pixel_size_angstrom);
  }

  /** Sliders for it, as an element. */
  controls() {
    const slider = (name, says, range, value, act, title) => {
      const input = element("input", { type: "range", name, title, ...range });
      input.value = value();
      input.addEventListener("input", () => act(Number(input.value)));
      return { input, label: element("label", { title }, `${says} `, input), value };
    };
    const most = () => Math.round(0.6 * this.overlay.diameter_px * this.overlay.pixel_size_angstrom);
    const sliders = [
      slider("contrast", "Contrast", { min: 0.3, max: 3, step: 0.05 }, () => this.contrast, (value) => this.#set({ contrast: value }), "Contrast of the picture"),
      slider("brightness", "Brightness", { min: 0.4, max: 2, step: 0.05 }, () => this.brightness, (value) => this.#set({ brightness: value }), "Brightness of the picture"),
      slider("lowpass", "Low-pass", { min: 0, max: most(), step: 1 }, () => this.lowpass ?? this.automaticLowpass, (value) => this.#set({ lowpass: value }), "Smooths the picture down to this resolution, in Å; at the left end it shows the file’s pixels as they are"),
    ];
    this.said = element("output", { class: "said" });
    const reset = () => {
      this.#set({ contrast: 1, brightness: 1, lowpass: null });
      for (const { input, value } of sliders) input.value = value();
    };
    const button = element("button", { type: "button", title: "Automatic contrast, brightness and low-pass", onclick: reset }, "Reset");
    this.#say();
    return element("div", { class: "tools look-tools", role: "group", "aria-label": "Picture" }, ...sliders.map((s) => s.label), this.said, button);
  }

  #set(values) {
    Object.assign(this, values);
    if ("lowpass" in values) this.levels.clear();
    this.#filter();
    this.#say();
    this.changed();
  }

  #say() {
    if (!this.said) return;
    this.said.textContent = this.lowpass === null ? `${this.automaticLowpass} Å, automatic` : this.lowpass ? `${this.lowpass} Å` : "none";
  }

  #filter() {
    const plain = this.contrast === 1 && this.brightness === 1;
    this.group.style.filter = plain ? "" : `contrast(${this.contrast}) brightness(${this.brightness})`;
  }

  /** Fetches the tiles that a part of the micrograph needs, `scale` screen pixels for each of its own. */
  view(box, scale) {
    const [h, w] = this.overlay.shape;
    const picture = Math.min(1, PICTURE_PX / Math.max(h, w));
    if (scale <= picture * 1.05 && this.lowpass === null) {
      this.tiles.replaceChildren();
      this.levels.clear();
      return;
    }
    const level = Math.max(0, Math.min(COARSEST_LEVEL, Math.floor(Math.log2(1 / scale) + 0.01)));
    const key = `${level} ${this.lowpass}`;
    if (!this.levels.has(key)) {
      const made = { group: drawing("g", {}), known: new Map() };
      this.levels.set(key, made);
      this.tiles.append(made.group);
    }
    const { group, known } = this.levels.get(key);
    group.setAttribute("class", scale >= 1 ? "sharp" : "");
    this.tiles.append(group); // above the others
    const side = TILE_PX * 2 ** level;
    const waiting = [];
    const clamp = (value, most) => Math.max(0, Math.min(Math.ceil(most / side) - 1, Math.floor((value + 0.5) / side)));
    for (let row = clamp(box.y, h); row <= clamp(box.y + box.height, h); row++) {
      for (let column = clamp(box.x, w); column <= clamp(box.x + box.width, w); column++) {
        const name = `${row} ${column}`;
        if (!known.has(name)) known.set(name, this.#tile(level, row, column, group));
        waiting.push(known.get(name));
      }
    }
    this.ready = Promise.all(waiting).then(() => {
      // Coarser ones are of use only until the finer ones are there.
      for (const other of [...this.tiles.children]) if (other !== group && this.levels.get(key)?.group === group && this.tiles.lastChild === group) other.remove();
      for (const other of [...this.levels.keys()]) if (!this.levels.get(other).group.isConnected) this.levels.delete(other);
      if (known.size > MOST_TILES) {
        this.levels.delete(key);
        group.remove();
        this.view(box, scale);
      }
    });
  }

  #tile(level, row, column, group) {
    const [h, w] = this.overlay.shape;
    const step = 2 ** level;
    const [top, left] = [row * TILE_PX * step, column * TILE_PX * step];
    const size = (most, from) => Math.ceil(Math.min(TILE_PX * step, most - from) / step) * step;
    const asked = new URLSearchParams({ lowpass: this.lowpass ?? this.automaticLowpass, epoch: this.epoch });
    const href = at(`/api/tile/${this.overlay.seq}/${level}/${row}/${column}?${asked}`);
    const image = drawing("image", { x: left - 0.5, y: top - 0.5, width: size(w, left), height: size(h, top), href, preserveAspectRatio: "none" });
    group.append(image);
    return new Promise((resolve) => {
      image.addEventListener("load", resolve);
      image.addEventListener("error", () => {
        image.remove(); // the coarser picture stays
        resolve();
      });
    });
  }
}
