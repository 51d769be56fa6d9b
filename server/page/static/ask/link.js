/** A prompt and its settings as a link: in its fragment, which browsers do not send to a server. */

/** Longer ones are cut by programs on the way. */
const LONGEST = 8000;

/** The last entry; without it a link was cut off. */
const END = "end=1";

/** @typedef {import("./controls.js").Controls} Controls */

/**
 * @param {Record<string, string>} values of the controls
 * @param {Record<string, string>} defaults which are left out
 * @returns {string}
 * @throws {Error} with a message for people if it would be too long
 */
export function linkOf(values, defaults) {
  const entries = Object.entries(values).filter(([name, value]) => name === "endpoint" || value !== defaults[name]);
  const written = entries.map(([name, value]) => `${name}=${encodeURIComponent(value.toWellFormed())}`);
  const link = `${location.href.split("#")[0]}#${[...written, END].join("&")}`;
  if (link.length > LONGEST) {
    throw new Error(
      `This is too long for a link: it would have ${link.length} characters, and ${LONGEST} are the most.`,
    );
  }
  return link;
}

/**
 * What a fragment says; null if there is none.
 *
 * @param {string} fragment with its #
 * @param {Controls} controls
 * @returns {Record<string, string> | null}
 * @throws {Error} with a message for people
 */
export function read(fragment, controls) {
  if (fragment.length < 2) {
    return null;
  }
  const entries = fragment.slice(1).split("&");
  if (fragment.length > LONGEST) {
    throw broken(`it has ${fragment.length} characters, and ${LONGEST} are the most`);
  }
  if (entries.pop() !== END) {
    throw broken("its end is missing");
  }
  const values = { ...controls.defaults };
  for (const entry of entries) {
    const [name, text] = entry.split(/=(.*)/s);
    const value = decoded(text ?? "");
    if (!Object.hasOwn(values, name) || !controls.takes(name, value)) {
      throw broken(`it asks for ${name}=${value}`.slice(0, 60));
    }
    values[name] = value;
  }
  return values;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    throw broken("a part of it is damaged");
  }
}

function broken(why) {
  return new Error(`The link cannot be used: ${why}.`);
}
