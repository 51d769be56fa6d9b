/** The body of a request, and the same request as a shell command. */

const PATHS = { completion: "v1/completions", chat: "v1/chat/completions" };

/** Numbers that are left out of the body when their control is empty. */
const NUMBERS = {
  confidence_threshold: "tau",
  max_steps_per_block: "steps",
  max_tokens: "max-tokens",
  temperature: "temperature",
  seed: "seed",
};

/** Of no meaning to a model without blocks. */
const DENOISING = ["confidence_threshold", "max_steps_per_block"];

/**
 * @param {Record<string, string>} values of the controls
 * @param {{id: string, block_length: number} | null} model where it is known
 * @param {{role: string, content: string}[]} messages of a chat
 * @returns {{path: string, body: object}} path relative to the page
 */
export function requestOf(values, model, messages) {
  const body = { ...(model && { model: model.id }) };
  if (values.endpoint === "chat") {
    body.messages = messages;
  } else {
    body.prompt = values.prompt;
    if (values.suffix !== "") {
      body.suffix = values.suffix;
    }
  }
  for (const [name, control] of Object.entries(NUMBERS)) {
    if (values[control] !== "" && !(model?.block_length === 1 && DENOISING.includes(name))) {
      body[name] = Number(values[control]);
    }
  }
  const schema = parsed(values.schema);
  if (schema !== undefined) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  }
  const usage = { include_usage: true, continuous_usage_stats: true };
  return { path: PATHS[values.endpoint], body: { ...body, stream: true, diffusing: true, stream_options: usage } };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // Empty, or not finished yet.
  }
}

/**
 * The same question, answered one token per step: no confidence exceeds 1, so a step finalizes the surest token alone.
 *
 * @param {object} body
 */
export function oneTokenAStep({ max_steps_per_block: _, ...body }) {
  return { ...body, confidence_threshold: 1 };
}

/**
 * A command for a POSIX shell. A key is not written into it.
 *
 * @param {{path: string, body: object}} request
 * @param {boolean} keyed
 */
export function curlOf({ path, body }, keyed) {
  const key = keyed ? ` \\\n  -H "Authorization: Bearer $CDLM_KEY"` : "";
  const url = quoted(new URL(path, document.baseURI).href.split("#")[0]);
  return `curl -N ${url} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d ${quoted(JSON.stringify(body))}`;
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
