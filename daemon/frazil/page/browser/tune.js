// Tuning by eye: other limits are tried on one micrograph, counted on all, and applied by whoever holds the token.

import { ask, at, confirmation, counted, element, grouped, post, say } from "/static/dom.js";

/** Builds the form for an overlay's micrograph; `viewer` shows what it would pick, `tried(threshold)` is told. */
export function tune(form, viewer, overlay, tried = () => {}) {
  const stays = form.dataset.of === overlay.path ? form.querySelector(".told")?.textContent : "";
  form.dataset.of = overlay.path;
  const diameter = overlay.diameter_px * overlay.pixel_size_angstrom;
  const limits = [
    { name: "threshold", says: "Threshold", value: overlay.threshold, most: 1, step: 0.005, digits: 3 },
    { name: "min_distance_angstrom", says: "Minimum distance, Å", value: overlay.min_distance_angstrom, most: 2 * diameter, step: 1, digits: 0 },
    { name: "edge_margin_angstrom", says: "Edge margin, Å", value: overlay.edge_margin_angstrom, most: 2 * diameter, step: 1, digits: 0 },
  ];
  const result = element("output", { class: "result" }, "Move a slider: the picture shows what would be picked.");
  const total = element("output", { class: "result" });
  const { box, tell } = confirmation();
  const reset = element("button", { type: "button", title: "Back to the limits that hold", onclick: undo }, "Reset");
  const count = element("button", { type: "button", onclick: countAll }, "Count all micrographs");
  const apply = element("button", { type: "submit", class: "apply" }, "Apply to all, and to what follows");
  const choose = element("button", { type: "button", onclick: () => applyAll({ choose: true }) }, "Let frazil choose the threshold");

  for (const limit of limits) {
    const range = { min: 0, max: limit.most.toFixed(limit.digits), step: limit.step };
    limit.slider = element("input", { type: "range", ...range, "aria-label": limit.says });
    limit.number = element("input", { type: "number", ...range, name: limit.name });
    limit.slider.addEventListener("input", () => set(limit, Number(limit.slider.value)));
    limit.number.addEventListener("input", () => limit.number.checkValidity() && limit.number.value !== "" && set(limit, Number(limit.number.value)));
    show(limit, limit.value);
  }
  form.replaceChildren(
    ...limits.map((limit) => element("div", { class: "limit-row" }, element("label", {}, limit.says, limit.number), limit.slider)),
    result,
    element("div", { class: "buttons" }, reset, count),
    total,
    element("div", { class: "buttons" }, apply, choose),
    box,
  );
  tell(stays); // a confirmation stays until it is closed, though the revised result has come meanwhile
  form.onsubmit = (event) => {
    event.preventDefault();
    applyAll();
  };

  function show(limit, value) {
    limit.now = value;
    limit.slider.value = value;
    if (limit.name === "threshold") tried(value);
    if (document.activeElement !== limit.number) limit.number.value = value.toFixed(limit.digits);
  }

  function set(limit, value) {
    show(limit, value);
    say(total, "");
    preview();
  }

  /** Only what differs is asked for, so that the rest stays exactly as it is. */
  function wanted() {
    const changed = limits.filter((limit) => Math.abs(limit.now - limit.value) > limit.step / 2);
    return Object.fromEntries(changed.map((limit) => [limit.name, limit.now]));
  }

  function undo() {
    for (const limit of limits) show(limit, limit.value);
    say(total, "");
    preview();
  }

  let asking = false;
  let again = false;

  /** One preview at a time; the last position of a slider always gets its own. */
  async function preview() {
    if (asking) {
      again = true;
      return;
    }
    const changes = wanted();
    if (!Object.keys(changes).length) {
      viewer.preview(null);
      say(result, "As it is.");
      return;
    }
    asking = true;
    const began = performance.now();
    try {
      const other = await ask(`/api/preview/${overlay.seq}?${new URLSearchParams(changes)}`);
      viewer.preview(other);
      const more = other.picks.y.length - overlay.picks.y.length;
      say(result, `${counted(other.picks.y.length, "pick")} instead of ${overlay.picks.y.length} (${more < 0 ? "−" : "+"}${Math.abs(more)}), found in ${Math.round(performance.now() - began)} ms.`);
    } catch (error) {
      viewer.preview(null);
      say(result, error.message);
    }
    asking = false;
    if (again) {
      again = false;
      preview();
    }
  }

  async function countAll() {
    count.disabled = true;
    const changes = wanted();
    try {
      const answer = await fetch(at(`/api/count/${overlay.seq}?${new URLSearchParams(changes)}`));
      if (!answer.ok) throw new Error((await answer.json()).error);
      const lines = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await lines.read();
        if (done) break;
        const whole = (rest + value).split("\n");
        rest = whole.pop();
        if (whole.length) showCount(JSON.parse(whole.at(-1)));
        if (JSON.stringify(wanted()) !== JSON.stringify(changes)) {
          lines.cancel();
          say(total, "");
          break;
        }
      }
    } catch (error) {
      say(total, error.message);
    }
    count.disabled = false;
  }

  function showCount({ all, counted: so, before, after, untold }) {
    const change = before ? ` (${after < before ? "−" : "+"}${Math.abs((100 * (after - before)) / before).toFixed(1)} %)` : "";
    const far = so < all ? ` So far ${grouped(so)} of ${grouped(all)} micrographs.` : ` All ${grouped(all)} micrographs.`;
    const not = untold ? ` Of these, ${grouped(untold)} cannot be revised and stay as they are.` : "";
    say(total, `${counted(after, "pick")} instead of ${grouped(before)}${change}.${far}${not}`);
  }

  async function applyAll(changes = wanted()) {
    if (!Object.keys(changes).length) {
      tell("Nothing differs from what is set.");
      return;
    }
    apply.disabled = true;
    try {
      const { asked } = await post(`/api/retune/${overlay.seq}`, changes);
      tell(`Asked for: ${asked}. The daemon takes it within a second or two, and revises earlier results one by one.`);
    } catch (error) {
      tell(`Not applied: ${error.message}`);
    }
    apply.disabled = false;
  }
}
