// A strip of thumbnails: the micrographs of the list around the one that is shown.

import { thumbnail } from "/static/circles.js";
import { decimals, element, fileName, STATES } from "/static/dom.js";

const SHAPE = [1, 1]; // of the frame: thumbnails are cut to squares

/** Shows rows of the list; `go(path)` opens one without a new page. */
export function showStrip(strip, { rows }, { path, epoch, addressOf, go }) {
  const wanted = rows.map(({ path: of, seq, mark }) => `${of}\n${seq}\n${mark}`).join("\n\n");
  if (strip.dataset.rows !== wanted) {
    strip.dataset.rows = wanted;
    const known = new Map([...strip.children].map((link) => [link.dataset.key, link]));
    strip.replaceChildren(...rows.map((row) => known.get(keyOf(row)) ?? card(row, { epoch, addressOf, go })));
  }
  for (const link of strip.children) {
    if (link.dataset.path === path) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  const shown = strip.querySelector("[aria-current]");
  if (shown) strip.scrollTo({ left: shown.offsetLeft - (strip.clientWidth - shown.clientWidth) / 2 });
}

function keyOf({ path, seq, mark, picks }) {
  return `${path}\n${seq}\n${mark}\n${picks}`;
}

function card(row, { epoch, addressOf, go }) {
  const name = fileName(row.path);
  const says = row.picks === null ? STATES[row.state] : `${row.picks} · ${decimals(row.score, 2)}`;
  const mark = { good: "✓", bad: "✕" }[row.mark] ?? "";
  const picture = row.seq === null ? element("span", { class: "nothing", "aria-hidden": "true" }, "–") : thumbnail(SHAPE, row.seq, epoch, "");
  picture.querySelector?.("image")?.setAttribute("preserveAspectRatio", "xMidYMid slice");
  picture.querySelector?.("image")?.addEventListener("error", (event) => event.currentTarget.remove());
  picture.setAttribute("aria-hidden", "true");
  picture.removeAttribute("role");
  return element(
    "a",
    {
      href: addressOf(row.path),
      "data-path": row.path,
      "data-key": keyOf(row),
      title: `${row.path}: ${says}`,
      "aria-label": `${name}, ${says}${row.mark ? `, marked ${row.mark}` : ""}`,
      onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
        event.preventDefault();
        go(row.path);
      },
    },
    picture,
    element("span", { class: "numbers" }, mark ? element("b", { class: `mark-${row.mark}` }, mark) : null, ` ${says}`),
  );
}
