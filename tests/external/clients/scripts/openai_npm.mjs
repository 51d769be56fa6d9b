// The openai npm package against a server. Run beside a node_modules that has it: node openai_npm.mjs URL
import assert from "node:assert/strict";
import OpenAI, { APIError, BadRequestError, NotFoundError } from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const model = "cdlm-nano";
const question = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?";
const messages = [{ role: "user", content: question }];
const order = {
  type: "object",
  properties: { kind: { enum: ["apple", "pear"] }, count: { type: "integer" } },
  required: ["kind", "count"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "buy", parameters: order } }];

const cases = {
  async models() {
    const found = await client.models.list();
    assert.deepEqual(found.data.map((card) => card.id), [model]);
    assert.equal((await client.models.retrieve(model)).id, model);
    await assert.rejects(client.models.retrieve("nope"), NotFoundError);
  },
  async completions() {
    const whole = await client.completions.create({ model, prompt: question, max_tokens: 70, logprobs: 1 });
    assert.ok(whole.usage.completion_tokens <= 70);
    // The bundled tokenizer marks digits with a control character that text leaves out.
    assert.equal(whole.choices[0].logprobs.tokens.join("").replaceAll("\u001f", ""), whole.choices[0].text);
    let text = "";
    for await (const chunk of await client.completions.create({ model, prompt: question, max_tokens: 70, stream: true })) {
      text += chunk.choices[0].text;
    }
    assert.equal(text, whole.choices[0].text);
  },
  async chats() {
    const whole = await client.chat.completions.create({ model, messages, max_completion_tokens: 70, n: 2 });
    assert.equal(whole.choices.length, 2);
    const stream = client.chat.completions.stream({ model, messages, max_completion_tokens: 70, stream_options: { include_usage: true } });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
    assert.equal(text, final.choices[0].message.content);
    assert.ok((await stream.totalUsage()).completion_tokens > 0);
  },
  async raw() {
    const { response, request_id } = await client.chat.completions
      .create({ model, messages, max_completion_tokens: 4 })
      .withResponse();
    assert.equal(response.status, 200);
    assert.equal(response.headers.get("x-request-id"), request_id);
  },
  async tools() {
    const body = { model, messages, tools, tool_choice: "required", parallel_tool_calls: false, max_completion_tokens: 160 };
    const whole = await client.chat.completions.create(body);
    const [call] = whole.choices[0].message.tool_calls;
    assert.equal(call.function.name, "buy");
    assert.ok(Number.isFinite(JSON.parse(call.function.arguments).count));
    const final = await client.chat.completions.stream(body).finalMessage();
    assert.equal(final.tool_calls[0].function.arguments, call.function.arguments);
    const more = [...messages, final, { role: "tool", tool_call_id: final.tool_calls[0].id, content: "bought" }];
    const next = await client.chat.completions.create({ model, messages: more, tools, tool_choice: "none", max_completion_tokens: 8 });
    assert.equal(next.choices[0].message.role, "assistant");
  },
  async structured() {
    const response_format = { type: "json_schema", json_schema: { name: "order", schema: order, strict: true } };
    const chat = await client.chat.completions.parse({ model, messages, response_format, max_completion_tokens: 120 });
    const format = { type: "json_schema", name: "order", schema: order, strict: true };
    const response = await client.responses.parse({ model, input: question, text: { format }, max_output_tokens: 120 });
    assert.deepEqual(Object.keys(chat.choices[0].message.parsed).sort(), ["count", "kind"]);
    assert.deepEqual(response.output_parsed, chat.choices[0].message.parsed);
  },
  async responses() {
    const body = { model, input: question, max_output_tokens: 80 };
    const whole = await client.responses.create(body);
    assert.equal(whole.status, "completed");
    const stream = client.responses.stream(body);
    let text = "";
    for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
    assert.equal(text, whole.output_text);
    assert.equal((await stream.finalResponse()).output_text, whole.output_text);
  },
  async responseTools() {
    const body = {
      model, input: question, tools: [{ type: "function", name: "buy", parameters: order, strict: true }],
      tool_choice: "required", parallel_tool_calls: false, max_output_tokens: 160,
    };
    const whole = await client.responses.create(body);
    const [call] = whole.output;
    assert.equal(call.type, "function_call");
    assert.ok(Number.isFinite(JSON.parse(call.arguments).count));
    const final = await client.responses.stream(body).finalResponse();
    assert.equal(final.output[0].arguments, call.arguments);
    const input = [
      { role: "user", content: question }, ...whole.output,
      { type: "function_call_output", call_id: call.call_id, output: "bought" },
    ];
    const next = await client.responses.create({ ...body, input, tool_choice: "none", max_output_tokens: 8 });
    assert.equal(next.output[0].type, "message");
  },
  async errors() {
    await assert.rejects(client.completions.create({ model, prompt: "hi", temperature: 3 }), (error) => {
      assert.ok(error instanceof BadRequestError && error instanceof APIError);
      assert.equal(error.param, "temperature");
      return true;
    });
    await assert.rejects(client.responses.create({ model, input: "hi", store: true }), { param: "store" });
  },
  async leaving() {
    const stream = await client.chat.completions.create({ model, messages, stream: true, ignore_eos: true });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
    assert.ok(stream.controller.signal.aborted);
  },
};

for (const [name, run] of Object.entries(cases)) {
  await run();
  console.log(`ok ${name}`);
}
