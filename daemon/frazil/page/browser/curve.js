// A small curve of values one after the other.

import { drawing } from "/static/dom.js";

const HEIGHT = 84;
const LEFT = 44;
const EDGE = 10;
const BOTTOM = 20;

/** Draws values into a figure, behind its caption. name: for those who hear it; of: what is counted along; high?: always in view. */
export function curve(figure, values, { name, of, high, digits }) {
  figure.querySelector("svg")?.remove();
  const width = Math.max(240, figure.clientWidth);
  const top = high ?? Math.max(...values);
  const low = Math.min(...values, (high ?? Infinity) - 0.2);
  const spread = top - low || 1;
  const x = (i) => LEFT + (i / Math.max(1, values.length - 1)) * (width - LEFT - EDGE);
  const y = (value) => EDGE + ((top - value) / spread) * (HEIGHT - EDGE - BOTTOM);
  const label = `${name}: from ${values[0].toFixed(digits)} to ${values.at(-1).toFixed(digits)} in ${values.length}`;
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label });
  for (const value of top > low ? [low, top] : [top]) {
    svg.append(drawing("line", { class: "grid", x1: LEFT, x2: width - EDGE, y1: y(value), y2: y(value) }));
    svg.append(drawing("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(digits)));
  }
  const points = values.map((value, i) => `${x(i).toFixed(1)} ${y(value).toFixed(1)}`);
  svg.append(drawing("path", { class: "line", d: `M${points.join("L")}` }), drawing("path", { class: "dots", d: `M${points.at(-1)}h0` }));
  svg.append(drawing("text", { class: "tick", x: width - EDGE, y: HEIGHT - 4, "text-anchor": "end" }, `${values.length} ${of}`));
  figure.append(svg);
}
