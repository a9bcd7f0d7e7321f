// Which micrographs the list shows, and in which order: as the address says.

const NAMES = ["search", "states", "folder", "mark", "grade", "category", "square", "sort", "order"];

/** The part of an address that says so, without what is empty. */
export function listQuery(from = location.search) {
  const params = new URLSearchParams(from);
  return Object.fromEntries(NAMES.map((name) => [name, params.get(name) ?? ""]).filter(([, value]) => value));
}

export const SORTS = {
  "name down": "Name, last first",
  "name up": "Name, first first",
  "time down": "Time, newest first",
  "time up": "Time, oldest first",
  "picks up": "Picks, fewest first",
  "picks down": "Picks, most first",
  "score up": "Mean score, lowest first",
  "score down": "Mean score, highest first",
  "grade up": "Grade, worst first",
  "precision up": "Estimated precision, lowest first",
  "precision down": "Estimated precision, highest first",
  "defocus up": "Defocus, lowest first",
  "defocus down": "Defocus, highest first",
  "resolution up": "CTF fit, best first",
  "resolution down": "CTF fit, worst first",
  "ice up": "Ice, thinnest first",
  "ice down": "Ice, thickest first",
  "junk down": "Junk, most first",
};

export const CATEGORIES = ["empty", "crystalline ice", "carbon", "contamination", "out of focus", "cracked"];

/** A grade with its sign, and what is wrong in words. */
export function gradeWords({ grade, category }) {
  return `${{ good: "✓", doubtful: "?", bad: "✕" }[grade] ?? ""} ${grade}${category ? `: ${category}` : ""}`.trim();
}
