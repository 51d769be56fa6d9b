/** What the controls begin with and ask for: prompts, the body of a request, the same request as a shell command. */

const PATHS = { completion: "v1/completions", chat: "v1/chat/completions" };

/** Stops of the slider; the first leaves the threshold to the model. */
const THRESHOLDS = ["", 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 1];

/** Numbers that are left out of the body when their control is empty. */
const NUMBERS = {
  confidence_threshold: "tau",
  max_steps_per_block: "steps",
  max_tokens: "max-tokens",
  temperature: "temperature",
  seed: "seed",
};

/** The bundled student knows problems like these alone. */
const NANO = {
  Apples:
    "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. Next Tom gives away 8. " +
    "How many apples does Tom have now?",
  Stickers: "Mia has 25 stickers. Then Mia buys 4 packs of 6 stickers. How many stickers does Mia have now?",
  count_even: "Write a Python function count_even(nums) that returns the number of even numbers in nums.",
  remove_repeats:
    "Write a Python function remove_repeats(nums) to return a list of the numbers in nums without repeats.",
};

const ENGLISH = {
  Sky: "Why is the sky blue? Answer in two sentences.",
  Owl: "Tell me a short story about an owl and a lighthouse.",
  Apples: "Tom has 14 apples and buys 3 bags of 12. How many apples does he have now?",
  add: "Write a Python function add(a, b) that returns the sum of two numbers.",
};

const find = (id) => document.getElementById(id);

/**
 * @param {string} model its id
 * @returns {{prompts: Record<string, string>, endpoint: "completion" | "chat"}} prompts, and what to send them as
 */
export function examplesFor(model) {
  return model === "cdlm-nano" ? { prompts: NANO, endpoint: "completion" } : { prompts: ENGLISH, endpoint: "chat" };
}

/**
 * @param {string | null} model its id, where it is known
 * @returns {{path: string, body: object}} path relative to the page
 */
export function currentRequest(model) {
  const endpoint = find("endpoint").value;
  const prompt = find("prompt").value;
  const body = { ...(model && { model }) };
  if (endpoint === "chat") {
    body.messages = [{ role: "user", content: prompt }];
  } else {
    body.prompt = prompt;
  }
  for (const [name, id] of Object.entries(NUMBERS)) {
    if (find(id).value !== "") {
      body[name] = find(id).valueAsNumber;
    }
  }
  const usage = { include_usage: true, continuous_usage_stats: true };
  return { path: PATHS[endpoint], body: { ...body, stream: true, diffusing: true, stream_options: usage } };
}

/**
 * The same question, answered one token a step: no confidence exceeds 1, so a step finalizes the surest token alone.
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
  const url = quoted(new URL(path, document.baseURI).href);
  return `curl -N ${url} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d ${quoted(JSON.stringify(body))}`;
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Ties the slider of the threshold to the field beside it. */
export function tieThreshold() {
  const field = find("tau");
  const slider = find("tau-slide");
  const tell = () => slider.setAttribute("aria-valuetext", field.value || "the model's own");
  slider.max = String(THRESHOLDS.length - 1);
  slider.addEventListener("input", () => {
    field.value = String(THRESHOLDS[slider.valueAsNumber]);
    tell();
  });
  field.addEventListener("input", () => {
    const next = THRESHOLDS.findIndex((stop) => stop !== "" && stop >= field.valueAsNumber);
    slider.value = field.value === "" ? "0" : String(next < 0 ? THRESHOLDS.length - 1 : next);
    tell();
  });
  tell();
}
