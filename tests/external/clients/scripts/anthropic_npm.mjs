// The @anthropic-ai/sdk npm package against a server. Run beside a node_modules that has it: node anthropic_npm.mjs URL
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const model = "cdlm-nano";
const question = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?";
const messages = [{ role: "user", content: question }];
const order = {
  type: "object",
  properties: { kind: { enum: ["apple", "pear"] }, count: { type: "integer" } },
  required: ["kind", "count"],
  additionalProperties: false,
};
const tools = [{ name: "buy", input_schema: order }];

const cases = {
  async messages() {
    const whole = await client.messages.create({ model, messages, max_tokens: 96 });
    assert.equal(whole.stop_reason, "end_turn");
    const counted = await client.messages.countTokens({ model, messages });
    assert.equal(whole.usage.input_tokens + whole.usage.cache_read_input_tokens, counted.input_tokens);
    let text = "";
    const stream = client.messages.stream({ model, messages, max_tokens: 96 }).on("text", (piece) => (text += piece));
    const final = await stream.finalMessage();
    assert.deepEqual(final.content, whole.content);
    assert.equal(text, whole.content[0].text);
  },
  async tools() {
    const body = { model, messages, tools, tool_choice: { type: "tool", name: "buy" }, max_tokens: 160 };
    const whole = await client.messages.create(body);
    assert.equal(whole.stop_reason, "tool_use");
    const [call] = whole.content;
    assert.ok(Number.isFinite(call.input.count));
    const final = await client.messages.stream(body).finalMessage();
    assert.deepEqual(final.content[0].input, call.input);
    const result = { type: "tool_result", tool_use_id: call.id, content: [{ type: "text", text: "bought" }] };
    const more = [...messages, { role: "assistant", content: whole.content }, { role: "user", content: [result] }];
    const next = await client.messages.create({ ...body, messages: more, tool_choice: { type: "none" }, max_tokens: 8 });
    assert.equal(next.role, "assistant");
  },
  async errors() {
    const wrong = client.messages.create({ model, messages, max_tokens: 8, temperature: 9 });
    await assert.rejects(wrong, (error) => {
      assert.ok(error instanceof Anthropic.BadRequestError);
      assert.equal(error.error.error.type, "invalid_request_error");
      return true;
    });
    await assert.rejects(client.messages.create({ model: "nope", messages, max_tokens: 8 }), Anthropic.NotFoundError);
  },
};

for (const [name, run] of Object.entries(cases)) {
  await run();
  console.log(`ok ${name}`);
}
