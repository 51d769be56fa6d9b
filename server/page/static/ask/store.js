/** Settings that this browser keeps between visits. Prompts, answers and keys are not among them. */

const NAME = "cdlm-settings";

const KEPT = ["endpoint", "race", "numbers", "tau", "steps", "max-tokens", "temperature", "seed"];

/** @typedef {import("./controls.js").Controls} Controls */

/**
 * Writes what was kept into the controls. What cannot be read is forgotten, and the controls stay as they are.
 *
 * @param {Controls} controls
 * @returns {"none" | "read" | "broken"} what there was
 */
export function restore(controls) {
  let kept = null;
  try {
    kept = localStorage.getItem(NAME);
  } catch {
    // The user has forbidden it; the page works without.
  }
  if (kept === null) {
    return "none";
  }
  try {
    const stored = JSON.parse(kept);
    const isKept = ([name, value]) => KEPT.includes(name) && controls.takes(name, value);
    if (typeof stored === "object" && Object.entries(stored).every(isKept)) {
      controls.write(stored);
      return "read";
    }
  } catch {
    // Not JSON, or no object.
  }
  forget();
  return "broken";
}

/** @param {Controls} controls those whose values no request could have are left out */
export function keep(controls) {
  const values = Object.entries(controls.values(KEPT)).filter(([name, value]) => controls.takes(name, value));
  try {
    localStorage.setItem(NAME, JSON.stringify(Object.fromEntries(values)));
  } catch {
    // As above, or the disk is full.
  }
}

/** Forgets what was kept, and makes all controls but the prompt what they are at first; the model has its endpoint. */
export function reset(controls, endpoint) {
  forget();
  const { prompt, ...settings } = controls.defaults;
  controls.write({ ...settings, endpoint, numbers: "" });
}

function forget() {
  try {
    localStorage.removeItem(NAME);
  } catch {
    // As above.
  }
}
