// Plots of the session: SVG of our own, drawn to the width that there is. Dragging zooms, a click leads to the micrograph.

import { at, clock, drawing, element, grouped } from "/static/dom.js";

const HEIGHT = 124;
const LEFT = 44;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 24;

/** Nice round ticks from 0 or the lowest value to the highest. */
function ticks(low, high, most) {
  const rough = (high - low || 1) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((s) => s >= rough);
  const first = Math.ceil(low / step) * step;
  const all = [];
  for (let v = first; v <= high + step * 1e-6; v += step) all.push(Math.abs(v) < step * 1e-6 ? 0 : v);
  return { all, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (String(step).includes("25") ? 1 : 0)) };
}

const LONG_GAP_SECONDS = 600;
const LEAST_DRAG_PX = 8;

/** Times in words, as short as tells them apart. */
function timesOf(t0, t1) {
  const short = t1 - t0 > 86400 ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit", hour12: false };
  if (t1 - t0 < 300) short.second = "2-digit";
  return (t) => new Date(t * 1000).toLocaleString([], short);
}

/** Runs of neighbours without a gap between: where there is no value, or for long no micrograph. */
function runs(at, values, axis) {
  const steps = at.slice(1).map((t, i) => t - at[i]).sort((a, b) => a - b);
  const long = axis === "at" ? Math.max(LONG_GAP_SECONDS, 8 * (steps[Math.floor(steps.length / 2)] ?? 0)) : Infinity;
  const all = [[]];
  for (let i = 0; i < at.length; i++) {
    if (values[i] === null || (i && at[i] - at[i - 1] > long)) all.push([]);
    if (values[i] !== null) all.at(-1).push(i);
  }
  return all.filter((run) => run.length);
}

/**
 * Draws values over number or time into a figure, behind its caption.
 *
 * number, at: of each; axis: which of the two is plotted against; values, lowest?, highest?, seq; marks: [{at, says}];
 * name: for those who hear it; bounds: [low, high] that are always in view; zoom(from, to): is told the numbers between
 * which somebody drags.
 */
export function plot(figure, { number, at: times, axis = "at", values, lowest, highest, seq, marks = [], name, bounds = [0, 1], digits = 0, zoom }) {
  figure.querySelector("svg, .empty")?.remove();
  const kept = times.map((_, i) => i).filter((i) => values[i] !== null);
  if (!kept.length) {
    figure.append(element("p", { class: "empty" }, "Nothing yet"));
    return;
  }
  const across = axis === "at" ? times : number;
  const width = Math.max(240, figure.clientWidth);
  const t0 = across[0];
  const t1 = Math.max(across.at(-1), t0 + 1);
  const low = bounds[0];
  const high = Math.max(bounds[1], ...kept.map((i) => highest?.[i] ?? values[i])) * (digits ? 1 : 1.08);
  const x = (t) => LEFT + ((t - t0) / (t1 - t0)) * (width - LEFT - RIGHT);
  const y = (v) => HEIGHT - BOTTOM - ((v - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const last = values[kept.at(-1)];
  const label = `${name}: ${kept.length} points from ${clock(times[kept[0]])} to ${clock(times[kept.at(-1)])}, the last ${last.toFixed(digits)}`;
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label });

  const scale = ticks(low, high, 4);
  for (const v of scale.all) {
    svg.append(drawing("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }));
    svg.append(drawing("text", { class: "tick", x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(scale.digits)));
  }
  if (axis === "at") {
    const says = timesOf(t0, t1);
    const many = Math.max(2, Math.min(5, Math.floor(width / 130)));
    for (let k = 0; k < many; k++) {
      const t = t0 + ((t1 - t0) * k) / (many - 1);
      const anchor = k === 0 ? "start" : k === many - 1 ? "end" : "middle";
      svg.append(drawing("text", { class: "tick", x: x(t), y: HEIGHT - 6, "text-anchor": anchor }, says(t)));
    }
  } else {
    for (const v of ticks(t0, t1, Math.floor(width / 90)).all.filter(Number.isInteger)) {
      svg.append(drawing("text", { class: "tick", x: x(v), y: HEIGHT - 6, "text-anchor": x(v) > width - 30 ? "end" : "middle" }, grouped(v)));
    }
  }
  for (const mark of marks) {
    const after = times.findIndex((t) => t >= mark.at);
    const place = axis === "at" ? mark.at : after > 0 ? across[after] - 0.5 : -Infinity;
    if (!(place > t0 && place < t1)) continue;
    svg.append(drawing("g", { class: "mark" }, drawing("line", { x1: x(place), x2: x(place), y1: TOP, y2: HEIGHT - BOTTOM }), drawing("text", { x: x(place) + 4, y: TOP + 9 }, mark.says)));
  }
  const points = (some, of) => some.map((i) => `${x(across[i]).toFixed(1)} ${y(of[i]).toFixed(1)}`);
  for (const run of runs(times, values, axis)) {
    if (lowest && run.some((i) => highest[i] > lowest[i])) {
      svg.append(drawing("path", { class: "band", d: `M${[...points(run, highest), ...points(run, lowest).reverse()].join("L")}Z` }));
    }
    svg.append(drawing("path", { class: run.length > 1 ? "line" : "dots", d: `M${points(run, values).join("L")}${run.length > 1 ? "" : "h0"}` }));
  }
  if (kept.length <= 120) svg.append(drawing("path", { class: "dots", d: points(kept, values).map((point) => `M${point}h0`).join("") }));
  const band = drawing("rect", { class: "chosen-range", y: TOP, height: HEIGHT - TOP - BOTTOM, visibility: "hidden" });
  const cursor = drawing("g", { class: "cursor", visibility: "hidden" }, drawing("circle", { r: 4.5 }), drawing("text", { y: TOP + 9 }));
  svg.append(band, cursor);

  const place = (event) => {
    const box = svg.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * width;
  };
  const nearest = (px) => kept.reduce((a, b) => (Math.abs(x(across[b]) - px) < Math.abs(x(across[a]) - px) ? b : a));
  let from = null;
  svg.addEventListener("pointerdown", (event) => (from = zoom && event.button === 0 ? place(event) : null));
  svg.addEventListener("pointermove", (event) => {
    const i = nearest(place(event));
    const [circle, text] = cursor.children;
    circle.setAttribute("cx", x(across[i]));
    circle.setAttribute("cy", y(values[i]));
    const right = x(across[i]) > width / 2;
    text.setAttribute("x", x(across[i]) + (right ? -8 : 8));
    text.setAttribute("text-anchor", right ? "end" : "start");
    text.textContent = `${values[i].toFixed(digits)}, number ${grouped(Math.round(number[i]))}, ${clock(times[i])}`;
    cursor.setAttribute("visibility", "visible");
    if (from === null || Math.abs(place(event) - from) < LEAST_DRAG_PX) return;
    band.setAttribute("x", Math.min(from, place(event)));
    band.setAttribute("width", Math.abs(place(event) - from));
    band.setAttribute("visibility", "visible");
  });
  svg.addEventListener("pointerleave", () => {
    from = null;
    cursor.setAttribute("visibility", "hidden");
    band.setAttribute("visibility", "hidden");
  });
  svg.addEventListener("pointerup", (event) => {
    const to = place(event);
    if (from !== null && Math.abs(to - from) >= LEAST_DRAG_PX) {
      const [first, end] = [nearest(Math.min(from, to)), nearest(Math.max(from, to))];
      zoom(number[first], Math.max(number[end], number[first] + 1));
    } else if (seq) location.href = at(`/micrograph?seq=${seq[nearest(to)]}`);
  });
  figure.append(svg);
}

/** Values in bins as bars, with a line at a limit. */
export function histogram(figure, values, { low, high, bins, ...more }) {
  const counts = new Array(bins).fill(0);
  for (const v of values) counts[Math.max(0, Math.min(bins - 1, Math.floor(((v - low) / (high - low)) * bins)))]++;
  bars(figure, counts, { low, high, ...more });
}

/** Counts in bins as bars; where there is a limit, with a line at it. */
export function bars(figure, counts, { low, high, limit = null, digits = 1, name }) {
  figure.querySelector("svg, .empty")?.remove();
  const width = Math.max(240, figure.clientWidth);
  const height = 110;
  const most = Math.max(1, ...counts);
  const step = (width - 20) / counts.length;
  const floor = height - 20;
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name });
  counts.forEach((count, k) => {
    const tall = (count / most) * (floor - 8);
    const isBelow = limit !== null && low + ((k + 0.5) / counts.length) * (high - low) < limit;
    svg.append(drawing("rect", { class: isBelow ? "bar below" : "bar", x: 10 + k * step + 0.5, y: floor - tall, width: step - 1, height: tall }));
  });
  const at = (v) => 10 + ((v - low) / (high - low)) * (width - 20);
  for (const v of [low, (low + high) / 2, high]) {
    svg.append(drawing("text", { class: "tick", x: at(v), y: height - 5, "text-anchor": v === low ? "start" : v === high ? "end" : "middle" }, v.toFixed(digits)));
  }
  if (limit !== null) svg.append(drawing("line", { class: "limit", x1: at(limit), x2: at(limit), y1: 2, y2: floor }));
  figure.append(svg);
}
