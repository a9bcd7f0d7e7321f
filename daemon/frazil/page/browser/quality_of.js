// The quality of one micrograph: its grade, the reasons in words, what was measured, and its spectrum.

import { ask, at, byId, decimals, element, listFacts, say } from "/static/dom.js";
import { gradeWords } from "/static/query.js";

const MOODS = { good: "open", doubtful: "waiting", bad: "fault" };
const SOURCES = { ctffind: "CTFFIND", relion: "RELION", cryosparc: "cryoSPARC", warp: "Warp" };

/** Asks for the assessment of a micrograph and shows it; hides the part where there is none. */
export async function showQuality(path, epoch) {
  const part = byId("assessed");
  if (part.dataset.of !== path) part.hidden = true;
  part.dataset.of = path;
  const { quality } = await ask(`/api/quality?${new URLSearchParams({ path })}`);
  if (part.dataset.of !== path) return;
  part.hidden = !quality;
  if (!quality) return;
  const badge = byId("grade");
  badge.className = `badge badge-${MOODS[quality.grade]}`;
  say(badge, gradeWords(quality));
  const wanted = quality.reasons.join("\n");
  if (byId("reasons").dataset.shown !== wanted) byId("reasons").replaceChildren(...quality.reasons.map((reason) => element("li", {}, reason)));
  byId("reasons").dataset.shown = wanted;
  listFacts(byId("measured"), facts(quality));
  showSpectrum(quality, epoch);
}

function facts({ ctf, relative_ice_thickness: ice, junk_fraction: junk, usable_fraction: usable, drift, estimated_precision: precision, clumping, place }) {
  return [
    ...(ctf ? ofCtf(ctf) : []),
    ...(ice != null ? [["Ice", `${decimals(ice, 2)} thicker than the thinnest`, "mean free paths"]] : []),
    ["Junk", `${(100 * junk).toFixed(0)} %`, `${(100 * usable).toFixed(0)} % of the area can be used`],
    ...(drift != null ? [["Drift", decimals(drift, 2), "0: none"]] : []),
    ...(precision != null ? [["Estimated precision", decimals(precision, 2), "fraction of the picks that are particles"]] : []),
    ...(clumping != null ? [["Clumping", decimals(clumping, 2), "1: scattered at random, less: in clumps"]] : []),
    ...(place?.square ? [["Grid square", [place.square, place.hole && `hole ${place.hole}`].filter(Boolean).join(", ")]] : []),
  ];
}

function ofCtf({ defocus_u_angstrom: u, defocus_v_angstrom: v, defocus_angle_deg: angle, resolution_angstrom: resolution, correlation, phase_shift_deg: phase, source, is_reliable, doubt }) {
  return [
    ["Defocus", `${((u + v) / 2e4).toFixed(2)} µm`, `${(u / 1e4).toFixed(3)} and ${(v / 1e4).toFixed(3)} µm, ${angle.toFixed(0)}°${SOURCES[source] ? `, by ${SOURCES[source]}` : ""}`],
    ["CTF fits to", resolution == null ? "–" : `${resolution.toFixed(1)} Å`, is_reliable ? (correlation == null ? "" : `correlation ${correlation.toFixed(2)}`) : `not reliable: ${doubt}`],
    ...(phase ? [["Phase shift", `${phase.toFixed(0)}°`]] : []),
  ];
}

function showSpectrum({ seq, ctf }, epoch) {
  const figure = byId("spectrum");
  const wanted = ctf ? `${epoch} ${seq}` : "";
  if (figure.dataset.shown === wanted) return;
  figure.dataset.shown = wanted;
  figure.hidden = true;
  if (!wanted) return;
  const says = "Power spectrum: measured on the left, the fitted rings on the right";
  const picture = element("img", { src: at(`/api/spectrum/${seq}?${new URLSearchParams({ epoch })}`), alt: says, width: 512, height: 512 });
  picture.addEventListener("load", () => (figure.hidden = false));
  figure.replaceChildren(picture, element("figcaption", {}, says));
}
