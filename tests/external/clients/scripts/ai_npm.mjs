// The ai npm package, by chats and by responses. Run beside a node_modules that has it: node ai_npm.mjs URL
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, Output, streamText, tool } from "ai";
import { z } from "zod";

const name = "cdlm-nano";
const where = { baseURL: `${process.argv[2]}/v1`, apiKey: "none" };
const prompt = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?";
const order = z.object({ kind: z.enum(["apple", "pear"]), count: z.number().int().min(0).max(99) });
const buy = { description: "Buys fruit.", inputSchema: order };

const compatible = createOpenAICompatible({ name: "cdlm", ...where, includeUsage: true, supportsStructuredOutputs: true });
const official = createOpenAI(where);
// Without `store: false` the package sends references to items that it takes for kept.
const providerOptions = { openai: { store: false, parallelToolCalls: false } };
const models = {
  compatible: compatible.chatModel(name),
  chat: official.chat(name),
  responses: official.responses(name),
};

const streamed = (fields) => streamText({ ...fields, onError: ({ error }) => { throw error; } });

const cases = {
  async texts(model) {
    const fields = { model, prompt, instructions: "Answer briefly.", maxOutputTokens: 120, temperature: 0, maxRetries: 0, providerOptions };
    const whole = await generateText(fields);
    assert.ok(whole.text);
    assert.ok(whole.usage.outputTokens > 0);
    const stream = streamed(fields);
    let text = "";
    for await (const piece of stream.textStream) text += piece;
    assert.equal(text, whole.text);
    assert.equal(await stream.finishReason, whole.finishReason);
    assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
  },
  async structured(model) {
    const fields = { model, prompt, output: Output.object({ schema: order }), maxOutputTokens: 160, maxRetries: 0, providerOptions };
    const whole = await generateText(fields);
    order.parse(whole.output);
    const stream = streamed(fields);
    let last;
    for await (const partial of stream.partialOutputStream) last = partial;
    assert.deepEqual(last, whole.output);
    const choice = await generateText({ ...fields, output: Output.choice({ options: ["few", "many"] }) });
    assert.ok(["few", "many"].includes(choice.output));
    const list = await generateText({ ...fields, output: Output.array({ element: z.enum(["a", "b"]) }) });
    assert.ok(Array.isArray(list.output));
    assert.equal(typeof (await generateText({ ...fields, output: Output.json() })).output, "object");
  },
  async tools(model) {
    const fields = {
      model, prompt, tools: { buy: tool(buy) }, toolChoice: { type: "tool", toolName: "buy" },
      maxOutputTokens: 240, maxRetries: 0, providerOptions,
    };
    const whole = await generateText(fields);
    const [call] = whole.toolCalls;
    assert.equal(call.toolName, "buy");
    order.parse(call.input);
    assert.equal(whole.finishReason, "tool-calls");
    const stream = streamed(fields);
    let typed = "";
    for await (const part of stream.stream) if (part.type === "tool-input-delta") typed += part.delta;
    assert.deepEqual(JSON.parse(typed), (await stream.toolCalls)[0].input);
    assert.deepEqual((await stream.toolCalls)[0].input, call.input);
  },
  async steps(model) {
    const ran = [];
    const whole = await generateText({
      model, prompt, maxOutputTokens: 240, maxRetries: 0, providerOptions,
      tools: { buy: tool({ ...buy, execute: async (input) => ran.push(input) }) },
      toolChoice: "required",
      // The student cannot choose, so the first step has to call and the second has to answer.
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
      stopWhen: ({ steps }) => steps.length === 2,
    });
    assert.ok(ran.length > 0);
    assert.equal(whole.steps.length, 2);
    assert.equal(whole.steps[1].toolCalls.length, 0);
  },
  async errors(model) {
    const fields = { model, prompt, temperature: 3, maxRetries: 0, providerOptions };
    await assert.rejects(generateText(fields), (error) => {
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 400);
      return /temperature/.test(error.message);
    });
  },
};

for (const [kind, model] of Object.entries(models)) {
  for (const [name, run] of Object.entries(cases)) {
    await run(model);
    console.log(`ok ${kind} ${name}`);
  }
}

const fields = { prompt, maxOutputTokens: 60, maxRetries: 0 };
const whole = await generateText({ ...fields, model: compatible.completionModel(name) });
assert.equal(await streamed({ ...fields, model: compatible.completionModel(name) }).text, whole.text);
console.log("ok completions");
