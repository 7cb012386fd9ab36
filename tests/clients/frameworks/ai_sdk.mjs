// Vercel's AI SDK: loops through @ai-sdk/openai-compatible, @ai-sdk/openai (responses and chat) and @ai-sdk/anthropic, whole and streamed; objects; embeddings.
import assert from "node:assert";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const url = process.env.SLUICE_URL;
const baseURL = url + "/v1";
const model = process.env.SLUICE_MODEL;
const script = (name) => async (address, init) => {
  const body = JSON.parse(init.body);
  return fetch(address, { ...init, body: JSON.stringify({ ...body, chat_template_kwargs: { script: name } }) });
};
const question = "What is the weather in Paris?";
const answer = "It is 18 degrees and sunny in Paris.";

const openai = createOpenAI({ baseURL, apiKey: "none" });
const compatible = createOpenAICompatible({ name: "sluice", baseURL, apiKey: "none", includeUsage: true, supportsStructuredOutputs: true });
const anthropic = createAnthropic({ baseURL, apiKey: "none" });
for (const [name, to] of Object.entries({ compatible: compatible(model), chat: openai.chat(model), responses: openai.responses(model), anthropic: anthropic(model) })) {
  for (const stream of [false, true]) {
    const asked = [];
    const tools = {
      get_weather: tool({
        description: "The weather of a city.",
        inputSchema: z.object({ city: z.string() }),
        execute: async ({ city }) => {
          asked.push(city);
          return `${city}: 18 degrees, sunny`;
        },
      }),
    };
    const fields = { model: to, tools, prompt: question, stopWhen: stepCountIs(4), maxRetries: 0, onError: ({ error }) => { throw error; } };
    const result = stream ? streamText(fields) : await generateText(fields);
    assert.equal(await result.text, answer, `${name} ${stream}`);
    assert.deepEqual(asked, ["Paris"]);
    assert.equal((await result.steps).length, 2);
    assert.ok((await result.totalUsage).outputTokens > 0);
  }
}
const person = z.object({ name: z.string(), age: z.number() });
for (const [name, make] of Object.entries({
  compatible: createOpenAICompatible({ name: "sluice", baseURL, apiKey: "none", supportsStructuredOutputs: true, fetch: script("person") }),
  responses: createOpenAI({ baseURL, apiKey: "none", fetch: script("person") }),
  anthropic: createAnthropic({ baseURL, apiKey: "none" }),  // a call of its own tool
})) {
  const { output } = await generateText({ model: make(model), output: Output.object({ schema: person }), prompt: "Jason is 25 years old.", maxRetries: 0 });
  assert.deepEqual(output, { name: "Jason", age: 25 }, name);
}
const { embeddings } = await embedMany({ model: compatible.textEmbeddingModel("all-minilm-l6-v2"), values: ["a cat", "a kitten"], maxRetries: 0 });
assert.deepEqual(embeddings.map((vector) => vector.length), [384, 384]);
console.log("loops through openai-compatible, openai (chat and responses) and anthropic, whole and streamed; objects by a schema through three of them; embeddings");
