// The list of all micrographs: one page at a time, out of any number, sorted, filtered, and chosen to be marked.

import { thumbnail } from "/static/circles.js";
import { ask, at, byId, clock, confirmation, counted, decimals, element, fileName, grouped, micrographLink, say, STATES } from "/static/dom.js";
import { Edits, exportAddress, FORMATS } from "/static/edits.js";
import { isForPage, offerHelp } from "/static/help.js";
import { follow } from "/static/live.js";
import { CATEGORIES, gradeWords, listQuery, SORTS } from "/static/query.js";

const PAGE = 100;
const AGAIN_MS = 60;
const REST_MS = 2000; // between two looks at a list that changes
const LONGEST_ADDRESS = 8000;
const KEPT_MS = 60000; // a file that was packed, until the browser has it
const MARKS = { good: "✓ good", bad: "✕ bad", "": "" };

const form = byId("search");
const edits = new Edits(showTold);
const told = confirmation(() => (news = ""));
let news = ""; // what was done last, until that message is closed
const chosen = new Map(); // path → its row
let head = null;
let epoch = "";
let pending = null;
let shown = [];
let lastBox = -1;
let isAssessed = false;
let loadedAt = 0;
let again = null;

byId("told").replaceWith(told.box);
form.elements.sorted.append(...Object.entries(SORTS).map(([value, says]) => element("option", { value }, says)));
form.elements.category.append(...CATEGORIES.map((value) => element("option", { value }, value)));
offerHelp([
  ["j k", "Next and previous line"],
  ["Enter", "Open the micrograph"],
  ["Space", "Choose it; with Shift and a click, all between two"],
  ["g b", "Mark what is chosen good, or bad"],
  ["Esc", "Choose nothing"],
  ["/", "To the words that are sought"],
  ["?", "This card"],
]);

function wanted() {
  const params = new URLSearchParams(location.search);
  return { ...listQuery(), view: params.get("view") ?? "", offset: Math.max(0, Number(params.get("offset")) || 0) };
}

function go(changes) {
  const params = new URLSearchParams(Object.entries({ ...wanted(), ...changes }).filter(([, value]) => value));
  history.pushState(null, "", at(params.size ? `/micrographs?${params}` : "/micrographs"));
  load();
}

function fillForm() {
  const { search = "", states = "", folder = "", mark = "", grade = "", category = "", square = "", sort = "name", order = "down", view } = wanted();
  form.elements.search.value = search;
  if (folder && ![...form.elements.folder.options].some(({ value }) => value === folder)) form.elements.folder.append(element("option", { value: folder }, folder));
  form.elements.folder.value = folder;
  form.elements.mark.value = mark;
  form.elements.grade.value = grade;
  form.elements.category.value = category;
  form.elements.square.value = square;
  form.elements.square.parentElement.hidden = !square;
  form.elements.view.value = view;
  form.elements.sorted.value = `${sort} ${order}`;
  for (const box of form.querySelectorAll("[name=states]")) box.checked = states.split(",").includes(box.value);
}

async function load() {
  const { view, ...query } = wanted();
  const asked = new URLSearchParams(query);
  pending = asked.toString();
  loadedAt = Date.now();
  try {
    const found = await ask(`/api/micrographs?${asked}`);
    if (pending !== asked.toString()) return;
    show(found, view);
    // A list by a number of a long session is read in portions.
    if (!found.complete || found.stale) setTimeout(() => pending === asked.toString() && load(), found.complete ? REST_MS : AGAIN_MS);
  } catch (error) {
    say(byId("count"), error.message);
  }
}

function show({ count, offset, rows, folders, complete }, view) {
  const all = count === 1 ? "One micrograph" : `${grouped(count)} micrographs`;
  const reading = complete ? "" : " (the numbers are still being read)";
  say(byId("count"), (rows.length ? `${grouped(offset + 1)} to ${grouped(offset + rows.length)} of ${all.toLowerCase()}` : count ? `${all}, none on this page` : "No micrograph") + reading);
  if (form.elements.folder.options.length !== folders.length + 1) {
    form.elements.folder.replaceChildren(element("option", { value: "" }, "all"), ...folders.map((folder) => element("option", { value: folder }, folder)));
    fillForm();
  }
  shown = rows;
  // A session that frazil does not assess has no columns of nothing.
  if (!isAssessed && (rows.some(({ grade }) => grade) || wanted().grade || wanted().category)) isAssessed = true;
  document.body.classList.toggle("is-assessed", isAssessed);
  for (const row of rows) if (chosen.has(row.path)) chosen.set(row.path, row);
  const focused = document.activeElement?.closest("[data-path]")?.dataset.path;
  byId("table").hidden = view === "pictures";
  byId("pictures").hidden = view !== "pictures";
  byId("rows").replaceChildren(...(view === "pictures" ? [] : rows.map(line)));
  byId("pictures").replaceChildren(...(view === "pictures" ? rows.map(card) : []));
  if (focused) lineOf(focused)?.querySelector("a")?.focus();
  showChosen();
  const last = Math.max(0, Math.ceil(count / PAGE) * PAGE - PAGE);
  const step = (says, to, possible) => element("button", { type: "button", disabled: !possible, onclick: () => go({ offset: to }) }, says);
  byId("pages").replaceChildren(
    ...(count > PAGE
      ? [
          step("« First", 0, offset > 0),
          step("‹ Before", Math.max(0, offset - PAGE), offset > 0),
          step("Next ›", offset + PAGE, offset + PAGE < count),
          step("Last »", last, offset < last),
        ]
      : []),
  );
}

function addressOf(path) {
  const link = new URL(micrographLink(path), location.origin);
  for (const [name, value] of Object.entries(listQuery())) link.searchParams.set(name, value);
  return `${link.pathname}${link.search}`;
}

/** The mark as it will be, once what was asked for is granted. */
function markOf(row) {
  return edits.of(row.path).findLast(({ kind }) => kind === "mark")?.mark ?? row.mark;
}

function line(row, k) {
  const mark = markOf(row);
  return element(
    "tr",
    { class: row.state, "data-path": row.path },
    element("td", { class: "choice" }, choice(row, k)),
    element("th", { scope: "row" }, element("a", { href: addressOf(row.path) }, row.path)),
    element("td", { "data-says": "State" }, `${STATES[row.state]}${row.reason ? ` (${row.reason})` : ""}`),
    element("td", { class: `quality grade-${row.grade}`, "data-says": "Grade" }, gradeWords(row) || "–"),
    element("td", { class: "number", "data-says": "Picks" }, row.picks ?? "–"),
    element("td", { class: "number", "data-says": "Mean score" }, decimals(row.score, 2)),
    measured("Precision", row.precision, 2),
    measured("Defocus, µm", row.defocus_um, 2),
    measured("CTF fit, Å", row.resolution_angstrom, 1),
    measured("Ice", row.ice, 2),
    measured("Junk", row.junk_fraction, 2),
    element("td", { "data-says": "Mark", class: `mark-${mark}` }, [MARKS[mark], row.corrected ? "corrected" : ""].filter(Boolean).join(", ")),
    element("td", { "data-says": "When" }, clock(row.at)),
  );
}

function measured(says, value, digits) {
  return element("td", { class: `number quality${value === null ? " unknown" : ""}`, "data-says": says }, decimals(value, digits));
}

function card(row, k) {
  const mark = markOf(row);
  const name = fileName(row.path);
  const picture = row.seq === null ? element("span", { class: "nothing" }, STATES[row.state]) : thumbnail([1, 1], row.seq, epoch, `Picture of ${name}`);
  const image = picture.querySelector?.("image");
  image?.setAttribute("preserveAspectRatio", "xMidYMid slice");
  image?.addEventListener("error", () => image.remove());
  return element(
    "li",
    { "data-path": row.path, class: row.state },
    element("a", { href: addressOf(row.path), title: row.path }, picture, element("span", { class: "name" }, name)),
    element("label", { class: "numbers" }, choice(row, k), row.picks === null ? STATES[row.state] : `${counted(row.picks, "pick")} · ${decimals(row.score, 2)} `, mark ? element("b", { class: `mark-${mark}` }, MARKS[mark]) : null),
    row.grade && row.grade !== "good" ? element("span", { class: `wrong grade-${row.grade}` }, gradeWords(row)) : null,
  );
}

// --- what is chosen ---------------------------------------------------------------------------------------------------

function choice(row, k) {
  const box = element("input", { type: "checkbox", "aria-label": `Choose ${row.path}`, onclick: (event) => choose(k, event) });
  box.checked = chosen.has(row.path);
  return box;
}

function choose(k, event) {
  const isOn = event.target.checked;
  const [from, to] = event.shiftKey && lastBox >= 0 ? [Math.min(k, lastBox), Math.max(k, lastBox)] : [k, k];
  for (const row of shown.slice(from, to + 1)) {
    if (isOn) chosen.set(row.path, row);
    else chosen.delete(row.path);
  }
  lastBox = k;
  markBoxes();
}

function markBoxes() {
  for (const box of document.querySelectorAll("[data-path] input[type=checkbox]")) box.checked = chosen.has(box.closest("[data-path]").dataset.path);
  showChosen();
}

byId("all").addEventListener("change", (event) => {
  for (const row of shown) {
    if (event.target.checked) chosen.set(row.path, row);
    else chosen.delete(row.path);
  }
  markBoxes();
});

function showChosen() {
  const here = shown.filter(({ path }) => chosen.has(path)).length;
  byId("all").checked = shown.length > 0 && here === shown.length;
  byId("all").indeterminate = here > 0 && here < shown.length;
  const button = (says, act, title) => element("button", { type: "button", title, onclick: act }, says);
  const format = byId("format")?.value;
  const formats = element("select", { id: "format", "aria-label": "Format of the download" }, ...Object.entries(isAssessed ? { ...FORMATS, micrographs: "micrographs.star" } : FORMATS).map(([value, says]) => element("option", { value }, says)));
  if (format) formats.value = format;
  byId("chosen").replaceChildren(
    ...(chosen.size
      ? [
          element("strong", {}, `${grouped(chosen.size)} chosen`),
          button("Mark good", () => mark("good"), "g"),
          button("Mark bad", () => mark("bad"), "They have no picks then (b)"),
          button("Lift marks", () => mark(""), "Neither good nor bad"),
          button("Undo", undo, "Undo the last correction of each"),
          button("Choose none", chooseNone, "Esc"),
        ]
      : []),
    element("span", { class: "downloads" }, formats, button(chosen.size ? "Download chosen" : "Download all", download, "Picks as a zip, or micrographs with their CTF as one table; all are those of the list as it is filtered")),
  );
}

function chooseNone() {
  chosen.clear();
  markBoxes();
}

function mark(wantedMark) {
  if (!chosen.size) return;
  news = `${counted(chosen.size, "micrograph")} ${wantedMark ? `marked ${wantedMark}` : "without a mark now"}. `;
  const made = [...chosen.values()].filter(({ seq }) => seq !== null).map(({ path, seq }) => ({ path, seq, kind: "mark", mark: wantedMark }));
  if (made.length) edits.make(...made);
  showTold();
  load();
}

async function undo() {
  let count = 0;
  news = "Undone. ";
  for (const { path, seq } of chosen.values()) {
    try {
      if (seq !== null && (await edits.undo(path, seq))) count++;
    } catch (error) {
      told.tell(`Not undone: ${error.message}.`);
      return;
    }
  }
  if (!count) told.tell("Nothing to undo.");
}

function showTold() {
  const waiting = [...edits.unsent, ...edits.sent].length;
  if (edits.fault) told.tell(edits.fault);
  else if (waiting) told.tell(`Saving ${counted(waiting, "change")} …`);
  else if (news) told.tell(`${news}All changes are saved.`);
}

/** Asks which changes the daemon has granted. */
async function settle() {
  for (const path of new Set(edits.sent.map((edit) => edit.path))) await edits.granted(path).then((granted) => edits.drop(granted), () => {});
  showTold();
}

/** What is chosen, or else all of the list; more names than an address can hold are sent with the request. */
async function download() {
  const format = byId("format").value;
  const paths = [...chosen.keys()];
  const address = exportAddress(format, paths.length ? { paths } : { query: listQuery() });
  if (address.length <= LONGEST_ADDRESS) {
    location.href = address;
    return;
  }
  told.tell(`Packing the picks of ${counted(paths.length, "micrograph")} …`);
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ format, paths }) };
  try {
    const answer = await fetch(exportAddress(format), options);
    if (!answer.ok) throw new Error(`the daemon answered ${answer.status}`);
    const file = URL.createObjectURL(await answer.blob());
    element("a", { href: file, download: format === "micrographs" ? "micrographs.star" : `picks-${format}.zip` }).click();
    setTimeout(() => URL.revokeObjectURL(file), KEPT_MS);
    told.tell(`The picks of ${counted(paths.length, "micrograph")} were downloaded.`);
  } catch (error) {
    told.tell(`Not downloaded: ${error.message}.`);
  }
}

// --- keys -------------------------------------------------------------------------------------------------------------

function lineOf(path) {
  return [...document.querySelectorAll("[data-path]")].find((one) => one.dataset.path === path);
}

function step(by) {
  const lines = [...document.querySelectorAll("[data-path]")];
  const k = lines.findIndex((one) => one.contains(document.activeElement));
  lines[Math.max(0, Math.min(lines.length - 1, k < 0 ? 0 : k + by))]?.querySelector("a")?.focus();
}

addEventListener("keydown", (event) => {
  if (!isForPage(event)) return;
  const focused = document.activeElement?.closest("[data-path]");
  const does = {
    j: () => step(1),
    k: () => step(-1),
    g: () => mark("good"),
    b: () => mark("bad"),
    Escape: chooseNone,
    "/": () => form.elements.search.focus(),
    ...(focused && document.activeElement.matches("a") ? { " ": () => focused.querySelector("input").click() } : {}),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const states = [...form.querySelectorAll("[name=states]:checked")].map((box) => box.value).join(",");
  const [sort, order] = form.elements.sorted.value.split(" ");
  const usual = sort === "name" && order === "down";
  const { search, folder, mark: marked, grade, category, square, view } = form.elements;
  go({ search: search.value, folder: folder.value, mark: marked.value, grade: grade.value, category: category.value, square: square.value, view: view.value, states, sort: usual ? "" : sort, order: usual ? "" : order, offset: 0 });
});
form.addEventListener("change", (event) => event.target.name !== "search" && form.requestSubmit());
addEventListener("popstate", () => {
  fillForm();
  load();
});

fillForm();
load();
follow((now) => {
  const isFirst = !epoch;
  epoch = now.standing?.epoch ?? epoch;
  if (isFirst && epoch && wanted().view === "pictures") load();
  const newest = JSON.stringify([now.standing?.head, now.standing?.counts]);
  // The first page shows what comes; on a later one rows would move under the reader's eyes.
  if (head !== null && newest !== head) {
    clearTimeout(again);
    again = setTimeout(
      async () => {
        await settle();
        if (wanted().offset === 0 || edits.last.length) load();
      },
      Math.max(0, loadedAt + REST_MS - Date.now()),
    );
  }
  head = newest;
});
