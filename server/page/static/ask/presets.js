/** Prompts to begin with, and requests that show what diffusion can do: those that suit the model that is served. */

/**
 * What a preset writes into the controls; what it does not name becomes empty, and the other settings stay.
 * @typedef {{endpoint: "chat" | "completion", prompt: string, suffix?: string, schema?: string, race?: string,
 *            "max-tokens"?: string}} Values
 *
 * @typedef {{name: string, values: Values, note: string}} Preset the note says what to look for
 */

const APPLES =
  "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. Next Tom gives away 8. How many apples does Tom have now?";
const COUNT_EVEN = "Write a Python function count_even(nums) that returns the number of even numbers in nums.";
const OWL = "Tell me a short story about an owl and a lighthouse.";

/** The bundled student knows problems like these alone. */
const NANO = {
  Apples: APPLES,
  Stickers: "Mia has 25 stickers. Then Mia buys 4 packs of 6 stickers. How many stickers does Mia have now?",
  count_even: COUNT_EVEN,
  remove_repeats:
    "Write a Python function remove_repeats(nums) to return a list of the numbers in nums without repeats.",
};

const ENGLISH = {
  Sky: "Why is the sky blue? Answer in two sentences.",
  Owl: OWL,
  Apples: "Tom has 14 apples and buys 3 bags of 12. How many apples does he have now?",
  add: "Write a Python function add(a, b) that returns the sum of two numbers.",
};

const INFILL_NOTE = "The text after the answer is fixed, and the answer is written to meet it: send and look at both ends.";
const JSON_NOTE = "The answer keeps the schema, whatever the model is.";
const RACE_NOTE = "Left, all tokens of a block that are certain become final together; right, one token per forward.";

function schemaOf(properties) {
  const schema = { type: "object", properties, required: Object.keys(properties), additionalProperties: false };
  return JSON.stringify(schema, null, 1);
}

const PROBLEM = schemaOf({
  name: { enum: ["Tom", "Mia"] },
  item: { enum: ["apples", "stickers"] },
  left: { type: "integer", minimum: 0, maximum: 99 },
});
const RECIPE = schemaOf({
  dish: { type: "string", maxLength: 24 },
  minutes: { type: "integer", minimum: 1, maximum: 99 },
  ingredients: { type: "array", minItems: 3, maxItems: 5, items: { type: "string", maxLength: 24 } },
});

/** The lengths are those of the middle: a suffix is pinned exactly behind the most tokens of the answer. */
const INFILL_CODE = {
  endpoint: "completion",
  prompt: `${COUNT_EVEN}\n\ndef count_even(nums):\n    count = 0\n    for`,
  suffix: "\n    return count",
  "max-tokens": "25",
};
const INFILL_SUM = {
  endpoint: "completion",
  prompt: `${APPLES}\nTom starts with 14 apples.\n3 bags of 12: 3*12=30+6=36. 14+36=44+6=50.\n`,
  suffix: "\nThe answer is 42.",
  "max-tokens": "20",
};

const NANO_SHOWS = [
  { name: "Infill code", values: INFILL_CODE, note: INFILL_NOTE },
  { name: "Infill a sum", values: INFILL_SUM, note: INFILL_NOTE },
  {
    name: "JSON schema",
    values: { endpoint: "completion", prompt: APPLES, schema: PROBLEM },
    note: `${JSON_NOTE} cdlm-nano never saw JSON: expect the form, not the right number.`,
  },
  { name: "Race", values: { endpoint: "completion", prompt: APPLES, race: "1" }, note: RACE_NOTE },
];

const JSON_SHOW = {
  name: "JSON schema",
  values: { endpoint: "chat", prompt: "Write a recipe for pancakes.", schema: RECIPE },
  note: JSON_NOTE,
};

const BLOCK_SHOWS = [
  { name: "Infill code", values: { ...INFILL_CODE, "max-tokens": "32" }, note: INFILL_NOTE },
  JSON_SHOW,
  { name: "Race", values: { endpoint: "chat", prompt: OWL, race: "1" }, note: RACE_NOTE },
];

/**
 * @param {{id: string, block_length: number}} model
 * @returns {{prompts: Preset[], shows: Preset[], missing: string}} `missing` says what this model cannot show, and why
 */
export function presetsFor({ id, block_length }) {
  if (id === "cdlm-nano") {
    return { prompts: plain(NANO, "completion"), shows: NANO_SHOWS, missing: "" };
  }
  if (block_length > 1) {
    return { prompts: plain(ENGLISH, "chat"), shows: BLOCK_SHOWS, missing: "" };
  }
  const missing =
    `No infilling and no race here: ${id} decides its tokens from left to right, and has no blocks. ` +
    "Its forwards decide several tokens where its drafts agree. cdlm serve --model cdlm-nano shows both.";
  return { prompts: plain(ENGLISH, "chat"), shows: [JSON_SHOW], missing };
}

function plain(prompts, endpoint) {
  return Object.entries(prompts).map(([name, prompt]) => ({ name, values: { endpoint, prompt }, note: "" }));
}

/** All that a preset writes. */
export function filled({ values }) {
  return { suffix: "", schema: "", race: "", "max-tokens": "192", ...values };
}
