// Is it working? The one answer, in a mood, a sign and words.

export function judge({ troubles, unready, picking, last }) {
  const faults = troubles.filter((trouble) => trouble.level === "fault");
  if (faults.length) return ["fault", "✕", `No: ${lower(faults[0].says)}.`];
  if (unready) return ["warning", "…", `Not as yet: ${unready}.`];
  if (troubles.length) return ["warning", "!", `Yes, but: ${lower(troubles[0].says)}.`];
  return ["ok", "✓", picking ? "Yes: picking." : last ? "Yes: waiting for the next micrograph." : "Yes: waiting for the first micrograph."];
}

function lower(text) {
  return text.slice(0, 1).toLowerCase() + text.slice(1);
}
