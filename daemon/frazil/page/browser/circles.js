// What is drawn over a micrograph, as SVG in pixels of the micrograph.

import { ask, at, drawing } from "/static/dom.js";

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

const pointsOf = (outline) => outline.map(([y, x]) => `${x.toFixed(1)},${y.toFixed(1)}`);

/** The junk that a model found, as one path, so that a hole in it stays free. */
export function drawJunk(outlines) {
  return drawing("path", { class: "found-junk", "fill-rule": "evenodd", d: outlines.map((outline) => `M${pointsOf(outline).join("L")}Z`).join("") });
}

/** What people changed: a plus in what they added, a cross in what they took away, outlines of what is junk. */
export function drawCorrections({ added, deleted, junk }, diameter) {
  const arm = diameter / 7;
  const plus = (y, x) => `M${x - arm} ${y}h${2 * arm}M${x} ${y - arm}v${2 * arm}`;
  const cross = (y, x) => `M${x - arm} ${y - arm}l${2 * arm} ${2 * arm}m${-2 * arm} 0l${2 * arm} ${-2 * arm}`;
  const group = drawing("g", { class: "corrections" });
  for (const outline of junk) group.append(drawing("polygon", { class: "junk", points: pointsOf(outline).join(" ") }));
  const pluses = added.map(({ y, x }) => plus(y, x)).join("");
  const crosses = deleted.y.map((y, i) => cross(y, deleted.x[i])).join("");
  if (crosses) group.append(drawing("path", { class: "rim", d: crosses }), drawing("path", { class: "deleted", d: crosses }));
  if (pluses) group.append(drawing("path", { class: "rim", d: pluses }), drawing("path", { class: "added", d: pluses }));
  return group;
}

/** The cross that keys point with. */
export function drawCross({ y, x }, diameter) {
  const d = `M${x - diameter} ${y}h${2 * diameter}M${x} ${y - diameter}v${2 * diameter}`;
  return drawing("g", { class: "cross" }, drawing("path", { class: "rim", d }), drawing("path", { class: "added", d }));
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

/** A micrograph's thumbnail with its picks, for lists. */
export function thumbnail(shape, seq, epoch, label) {
  const svg = canvas(shape, label);
  svg.append(photograph(shape, pictureAddress(seq, epoch, "small")));
  return svg;
}

export function sample(kind) {
  const shape = { cx: 12, cy: 12, r: 9 };
  return drawing(
    "svg",
    { viewBox: "0 0 24 24", width: 24, height: 24, "aria-hidden": "true", class: "sample" },
    drawing("circle", { ...shape, class: "rim" }),
    drawing("circle", { ...shape, class: kind }),
  );
}
