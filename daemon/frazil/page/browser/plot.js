// Plots of the session: SVG of our own, drawn to the width that there is.

import { at, clock, drawing, element } from "/static/dom.js";

const HEIGHT = 170;
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

/**
 * Draws values over time into a figure, behind its caption.
 *
 * series: {at, values, lowest?, highest?, seq?}; marks: [{at, says}]; name: for those who hear it;
 * bounds: [low, high] that are always in view.
 */
export function plot(figure, { at, values, lowest, highest, seq, marks = [], name, bounds = [0, 1], digits = 0 }) {
  figure.querySelector("svg, .empty")?.remove();
  const kept = at.map((_, i) => i).filter((i) => values[i] !== null);
  if (!kept.length) {
    figure.append(element("p", { class: "empty" }, "Nothing yet"));
    return;
  }
  const width = Math.max(280, figure.clientWidth);
  const t0 = at[kept[0]];
  const t1 = Math.max(at[kept.at(-1)], t0 + 1);
  const low = bounds[0];
  const high = Math.max(bounds[1], ...kept.map((i) => highest?.[i] ?? values[i])) * (digits ? 1 : 1.08);
  const x = (t) => LEFT + ((t - t0) / (t1 - t0)) * (width - LEFT - RIGHT);
  const y = (v) => HEIGHT - BOTTOM - ((v - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const last = values[kept.at(-1)];
  const label = `${name}: ${kept.length} points from ${clock(t0)} to ${clock(t1)}, the last ${last.toFixed(digits)}`;
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label });

  const scale = ticks(low, high, 4);
  for (const v of scale.all) {
    svg.append(drawing("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }));
    svg.append(drawing("text", { class: "tick", x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(scale.digits)));
  }
  const short = t1 - t0 > 86400 ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit", hour12: false };
  if (t1 - t0 < 300) short.second = "2-digit";
  const many = Math.max(2, Math.min(5, Math.floor(width / 130)));
  for (let k = 0; k < many; k++) {
    const t = t0 + ((t1 - t0) * k) / (many - 1);
    const says = new Date(t * 1000).toLocaleString([], short);
    const anchor = k === 0 ? "start" : k === many - 1 ? "end" : "middle";
    svg.append(drawing("text", { class: "tick", x: x(t), y: HEIGHT - 6, "text-anchor": anchor }, says));
  }
  for (const mark of marks.filter((m) => m.at > t0 && m.at < t1)) {
    svg.append(
      drawing("g", { class: "mark" }, drawing("line", { x1: x(mark.at), x2: x(mark.at), y1: TOP, y2: HEIGHT - BOTTOM }), drawing("text", { x: x(mark.at) + 4, y: TOP + 9 }, mark.says)),
    );
  }
  if (lowest && kept.some((i) => highest[i] > lowest[i])) {
    const over = kept.map((i) => `${x(at[i]).toFixed(1)} ${y(highest[i]).toFixed(1)}`);
    const under = kept.map((i) => `${x(at[i]).toFixed(1)} ${y(lowest[i]).toFixed(1)}`).reverse();
    svg.append(drawing("path", { class: "band", d: `M${[...over, ...under].join("L")}Z` }));
  }
  const line = kept.map((i) => `${x(at[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`).join("L");
  svg.append(drawing("path", { class: "line", d: `M${line}` }));
  if (kept.length <= 120) {
    const dots = kept.map((i) => `M${x(at[i]).toFixed(1)} ${y(values[i]).toFixed(1)}h0`).join("");
    svg.append(drawing("path", { class: "dots", d: dots }));
  }

  const cursor = drawing("g", { class: "cursor", visibility: "hidden" }, drawing("circle", { r: 4.5 }), drawing("text", { y: TOP + 9 }));
  svg.append(cursor);
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * width;
    return kept.reduce((a, b) => (Math.abs(x(at[b]) - px) < Math.abs(x(at[a]) - px) ? b : a));
  };
  svg.addEventListener("pointermove", (event) => {
    const i = nearest(event);
    const [circle, text] = cursor.children;
    circle.setAttribute("cx", x(at[i]));
    circle.setAttribute("cy", y(values[i]));
    const right = x(at[i]) > width / 2;
    text.setAttribute("x", x(at[i]) + (right ? -8 : 8));
    text.setAttribute("text-anchor", right ? "end" : "start");
    text.textContent = `${values[i].toFixed(digits)} at ${clock(at[i])}`;
    cursor.setAttribute("visibility", "visible");
  });
  svg.addEventListener("pointerleave", () => cursor.setAttribute("visibility", "hidden"));
  if (seq) svg.addEventListener("click", (event) => (location.href = at(`/micrograph?seq=${seq[nearest(event)]}`)));
  figure.append(svg);
}

/** Counts in bins as bars, with a line at a limit. */
export function histogram(figure, values, { low, high, bins, limit, name }) {
  figure.querySelector("svg, .empty")?.remove();
  const width = Math.max(240, figure.clientWidth);
  const height = 110;
  const counts = new Array(bins).fill(0);
  for (const v of values) counts[Math.max(0, Math.min(bins - 1, Math.floor(((v - low) / (high - low)) * bins)))]++;
  const most = Math.max(1, ...counts);
  const step = (width - 20) / bins;
  const floor = height - 20;
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name });
  counts.forEach((count, k) => {
    const tall = (count / most) * (floor - 8);
    const beyond = low + ((k + 0.5) / bins) * (high - low) >= limit;
    svg.append(drawing("rect", { class: beyond ? "bar" : "bar below", x: 10 + k * step + 0.5, y: floor - tall, width: step - 1, height: tall }));
  });
  const at = (v) => 10 + ((v - low) / (high - low)) * (width - 20);
  for (const v of [low, (low + high) / 2, high]) {
    svg.append(drawing("text", { class: "tick", x: at(v), y: height - 5, "text-anchor": v === low ? "start" : v === high ? "end" : "middle" }, v.toFixed(1)));
  }
  svg.append(drawing("line", { class: "limit", x1: at(limit), x2: at(limit), y1: 2, y2: floor }));
  figure.append(svg);
}
