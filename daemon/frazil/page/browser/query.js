// Which micrographs the list shows, and in which order: as the address says.

const NAMES = ["search", "states", "folder", "mark", "sort", "order"];

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
};
