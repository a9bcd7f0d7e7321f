// Learning: what was corrected, what to correct next, each training, and which version is to serve.

import { drawPicks, thumbnail } from "/static/circles.js";
import { ask, byId, clock, counted, drawing, element, fileName, grouped, listFacts, micrographLink, nowSeconds, post, say, span } from "/static/dom.js";
import { curve } from "/static/curve.js";
import { follow } from "/static/live.js";

const LEARNING_SECONDS = 3;
const PROPOSALS_SECONDS = 20;

let version = "";
let epoch = "";
let requeued = 0;
let learning = null;
let learningAsked = 0;
let learningAsks = false;
let proposalsAsked = 0;
let proposalsKnow = -1;
let told = "";
let standing = "";
const cards = new Map();
const proposals = new Map();

follow(
  (now) => {
    if (version && version !== now.version) location.reload(); // the daemon was upgraded, and its page with it
    version = now.version;
    epoch = now.standing?.epoch ?? "";
    requeued = now.requeued;
    look();
  },
  // A trainer says how far it is in a file, of which no event tells.
  () => {
    if (nowSeconds() - learningAsked >= LEARNING_SECONDS && !document.hidden) look();
    showTimes();
  },
);
addEventListener("resize", () => {
  if (!learning) return;
  for (const card of cards.values()) delete card.dataset.shown;
  delete byId("estimate").dataset.shown;
  show();
});

async function look() {
  if (learningAsks) return;
  learningAsks = true;
  learningAsked = nowSeconds();
  try {
    learning = await ask("/api/learning");
    const now = JSON.stringify([learning.serves, learning.trainings.map(({ outcome }) => outcome)]);
    if (standing && now !== standing) told = ""; // what was asked for has been decided
    standing = now;
    tell();
    show();
    await askProposals();
  } catch (error) {
    if (error.status) tell(`Nothing can be said of learning as yet: ${error.message}.`);
  }
  learningAsks = false;
}

/** What was asked for stays until it is decided; what is wrong otherwise goes when it is over. */
function tell(passing = "") {
  say(byId("told"), told || passing);
}

function show() {
  showStanding();
  showFollower();
  showTrainings();
  showTimes();
}

// --- how good is the model? -------------------------------------------------------------------------------------------

function showStanding() {
  const { serves, corrected, kept, added, deleted, estimate, by_model, promoted } = learning;
  const [last] = by_model;
  const named = ({ name, version: number }) => `${name}/${number}`;
  const serving = by_model.find(({ model }) => named(model) === serves);
  const shown = serving ?? last;
  let says = "Nothing is corrected as yet, so nothing is known.";
  if (shown) says = `F1 ${shown.f1.toFixed(2)}: how well the picks of ${named(shown.model)} agree with ${counted(shown.micrographs, "corrected micrograph")}.`;
  say(byId("verdict"), says);
  listFacts(byId("facts"), [
    ["Serves", serves, serving || !last ? "" : "nothing that it picked is corrected as yet"],
    ...(requeued ? [["Picked again", counted(requeued, "earlier micrograph"), "wait, behind new ones"]] : []),
    ["Corrected", counted(corrected, "micrograph"), "without those marked bad"],
    ["Picks in them", `${grouped(kept)} right`, `${grouped(added)} added, ${grouped(deleted)} taken away`],
    ...by_model.filter((one) => one !== shown).map(({ model, f1, micrographs }) => [`F1 of ${named(model)}`, f1.toFixed(2), counted(micrographs, "micrograph")]),
  ]);
  const figure = byId("estimate");
  figure.hidden = estimate.length < 2;
  const wanted = JSON.stringify(estimate);
  if (!figure.hidden && figure.dataset.shown !== wanted) {
    figure.dataset.shown = wanted;
    curve(figure, estimate.map(({ f1 }) => f1), { name: "F1 after each corrected micrograph", of: "micrographs", high: 1, digits: 2 });
  }
  const back = byId("back");
  if (back.dataset.shown === String(promoted)) return;
  back.dataset.shown = String(promoted);
  back.replaceChildren(...(promoted ? [element("button", { type: "button", onclick: withdraw }, "Withdraw the session’s own model")] : []));
}

// --- what to correct next? ---------------------------------------------------------------------------------------------

async function askProposals() {
  const isOld = nowSeconds() - proposalsAsked >= PROPOSALS_SECONDS;
  if (!isOld && proposalsKnow === learning.corrected) return;
  proposalsAsked = nowSeconds();
  proposalsKnow = learning.corrected;
  const found = (await ask("/api/proposals")).proposals;
  const list = byId("proposals");
  for (const [seq, card] of proposals) {
    if (found.some((one) => one.seq === seq)) continue;
    card.remove();
    proposals.delete(seq);
  }
  if (!found.length) list.replaceChildren(element("li", { class: "none" }, "Nothing is picked that is not corrected."));
  else list.querySelector(".none")?.remove();
  for (const one of found) {
    if (!proposals.has(one.seq)) proposals.set(one.seq, proposalCard(one));
    list.append(proposals.get(one.seq));
  }
}

function proposalCard({ seq, micrograph, directory, picks, why }) {
  const path = [directory, micrograph].filter(Boolean).join("/");
  const frame = element("span", { class: "picture" });
  ask(`/api/overlay/${seq}`).then(
    (overlay) => {
      const svg = thumbnail(overlay.shape, seq, epoch, `${fileName(path)}: ${counted(picks, "pick")}`);
      svg.append(drawPicks(overlay.picks, overlay.threshold, overlay.diameter_px));
      frame.append(svg);
    },
    () => {},
  );
  return element("li", {}, element("a", { href: micrographLink(path) }, frame, element("span", { class: "name" }, fileName(path))), element("span", { class: "why" }, why));
}

// --- the follower ------------------------------------------------------------------------------------------------------

function showFollower() {
  const { following, follow: command, trainings } = learning;
  const box = byId("follower");
  const isTraining = trainings.some(isRunning);
  const wanted = JSON.stringify([isTraining, following && { ...following, updated_at: 0 }, command]);
  if (box.dataset.shown === wanted) return;
  box.dataset.shown = wanted;
  if (isTraining) box.replaceChildren();
  else if (following) {
    const { waiting, after, promotes } = following;
    const missing = Math.max(0, after - waiting);
    const more = missing === after ? counted(missing, "micrograph") : counted(missing, "more micrograph");
    const says = missing ? `Correct ${more}, and a training begins.` : "A training begins as soon as nobody corrects any more.";
    const then = promotes ? "What is better is handed in by itself." : "What is better then waits here for you.";
    box.replaceChildren(
      element("p", { class: "verdict" }, says),
      element("progress", { max: after, value: Math.min(waiting, after), "aria-label": "Corrected micrographs for the next training" }),
      element("p", { class: "hint" }, `${waiting} of ${after} corrected. ${then}`),
    );
  } else {
    box.replaceChildren(
      element("p", { class: "note" }, "Nobody learns from corrections: no follower of this session runs."),
      ...(command
        ? [element("p", {}, "To start one, type where the trainer is installed, on the daemon’s machine:"), element("pre", { tabindex: 0, "aria-label": "The command that starts a follower" }, element("code", {}, command))]
        : [element("p", {}, "The session is not open; open it first.")]),
      element("p", { class: "hint" }, `It runs at the lowest priority. With --promote it hands in what is better by itself.${command.includes(" --key ") ? " The stream is encrypted: the key is one of yours that the daemon admits." : ""}`),
    );
  }
}

// --- trainings ---------------------------------------------------------------------------------------------------------

function isRunning({ training, is_silent }) {
  return training.state === "training" && !is_silent;
}

function showTrainings() {
  const { trainings, promoted } = learning;
  const list = byId("trainings");
  const wanted = trainings.map(({ training }) => training.started_at);
  for (const [key, card] of cards) {
    if (wanted.includes(key)) continue;
    card.remove();
    cards.delete(key);
  }
  if (!trainings.length) list.replaceChildren(element("li", { class: "none" }, "None so far."));
  else list.querySelector(".none")?.remove();
  trainings.forEach((one, place) => {
    const key = one.training.started_at;
    if (!cards.has(key)) cards.set(key, element("li", {}));
    const card = cards.get(key);
    if (list.children[place] !== card) list.insertBefore(card, list.children[place] ?? null);
    const { updated_at, ...stays } = one.training;
    const now = JSON.stringify([stays, one.outcome, one.why, one.is_silent, promoted === one.training.version]);
    if (card.dataset.shown === now) return;
    card.dataset.shown = now;
    fillCard(card, one, promoted);
  });
}

/** What became of a training: a word, and a mood. */
function becameOf({ training, outcome, is_silent }, promoted) {
  if (training.state === "training") return is_silent ? ["hangs, or was killed", "fault"] : ["trains", "waiting"];
  if (outcome === "serves") return ["serves now", "open"];
  if (outcome === "refused") return ["refused by the daemon", "fault"];
  if (training.state === "failed") return training.version ? ["not better", "over"] : ["failed", "fault"];
  if (training.version === promoted) return ["is being checked", "waiting"];
  if (outcome === "served") return ["served before", "over"];
  return ["waits for you", "waiting"];
}

function fillCard(card, one, promoted) {
  const { training, outcome, why } = one;
  const { version: number, parent, learnt_from, kept_out, f1, loss, reason } = training;
  const [word, mood] = becameOf(one, promoted);
  const mayServe = number && training.state !== "failed" && !["refused", "serves"].includes(outcome) && number !== promoted;
  const wasOpen = Boolean(card.querySelector("details")?.open);
  const links = (paths, says) => paths.map((path) => element("li", {}, element("a", { href: micrographLink(path) }, fileName(path)), says));
  const figure = element("figure", { class: "plot" }, element("figcaption", {}, "Loss of each epoch"));
  card.replaceChildren(
    element("h3", {}, number ? `Version ${number}` : "A training", " ", element("span", { class: `badge badge-${mood}` }, word)),
    element("p", { class: "when hint" }),
    ...(isRunning(one) ? [element("progress", { max: training.minutes * 60, value: 0, "aria-label": "Time of this training" })] : []),
    ...(f1 ? [showF1(f1)] : []),
    ...(reason || why ? [element("p", { class: "note" }, `${sentence(why || reason)}.`)] : []),
    ...(one.is_silent ? [element("p", { class: "note" }, "It has said nothing for three minutes. Stop the follower and start it again: it goes on where it was.")] : []),
    ...(loss.length > 1 ? [figure] : []),
    element(
      "details",
      { open: wasOpen },
      element("summary", {}, `From ${parent.name}/${parent.version}, learnt from ${counted(learnt_from.length, "micrograph")}, ${kept_out.length} kept out`),
      element("ul", {}, ...links(learnt_from, ""), ...links(kept_out, " (kept out, to compare on)")),
    ),
    ...(mayServe ? [element("p", { class: "buttons" }, element("button", { type: "button", class: "apply", onclick: () => promote(training) }, `Promote version ${number}`))] : []),
  );
  if (loss.length > 1) curve(figure, loss, { name: "Loss of each epoch", of: "epochs", digits: 3 });
}

/** F1 before and after, as two bars on one scale. */
function showF1({ before, after, micrographs, particles }) {
  const bar = (says, value) => {
    const filled = drawing("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, drawing("rect", { class: "bar", width: 100 * value, height: 8 }));
    return element("div", {}, element("dt", {}, says), element("dd", {}, filled, value.toFixed(3)));
  };
  return element(
    "div",
    { class: "f1" },
    element("dl", {}, bar("before", before), bar("after", after)),
    element("p", { class: "hint" }, `F1 on ${counted(particles, "particle")} that no training sees, in ${counted(micrographs, "corrected micrograph")}`),
  );
}

function sentence(text) {
  return (/^[a-z]+ /.test(text) ? text[0].toUpperCase() + text.slice(1) : text).replace(/\.$/, "");
}

/** What changes with time alone. */
function showTimes() {
  if (!learning) return;
  for (const one of learning.trainings) {
    const { started_at, updated_at, minutes, loss } = one.training;
    const card = cards.get(started_at);
    if (!card) continue;
    const running = isRunning(one);
    const took = (running ? nowSeconds() : updated_at) - started_at;
    const progress = card.querySelector("progress");
    if (progress) progress.value = took;
    const epochs = loss.length ? `, ${counted(loss.length, "epoch")}, loss ${loss.at(-1).toFixed(3)}` : "";
    const began = `Began ${clock(started_at)}`;
    say(card.querySelector(".when"), running ? `${began}; ${span(took)} of ${minutes} min${epochs}` : `${began}, took ${span(took)}${epochs}`);
  }
}

// --- wishes ------------------------------------------------------------------------------------------------------------

function promote({ version: number, f1 }) {
  const better = f1 ? `F1 was ${f1.before.toFixed(3)} before, and is ${f1.after.toFixed(3)} with it. ` : "";
  confirmFirst(`Promote version ${number}?`, `${better}The daemon checks it, and if it passes, it picks from the next micrograph on. ${earlier()}.`, "Promote", { promote: number }, `Asked for version ${number}: the daemon checks it now, which takes some seconds.`);
}

function earlier() {
  return learning.picks_again ? "Earlier micrographs are picked again, behind new ones" : "Earlier micrographs keep their picks";
}

function withdraw() {
  confirmFirst("Withdraw the session’s own model?", `The model of the settings picks again, from the next micrograph on. ${earlier()}. The versions stay here.`, "Withdraw", { withdraw: true }, "Asked for: the model of the settings takes over within some seconds.");
}

function confirmFirst(title, says, word, wish, done) {
  const dialog = element("dialog", { "aria-labelledby": "confirm-title" });
  const finish = () => {
    dialog.close();
    dialog.remove();
  };
  const grant = async () => {
    finish();
    try {
      await post("/api/learning", wish);
      told = done;
    } catch (error) {
      told = `Nothing was changed: ${error.message}.`;
    }
    tell();
    look();
  };
  dialog.append(
    element("h2", { id: "confirm-title" }, title),
    element("p", {}, says),
    element("div", { class: "buttons" }, element("button", { type: "button", class: "apply", onclick: grant }, word), element("button", { type: "button", onclick: finish }, "Cancel")),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
