// A loop of calls and results with a model that decides for itself, by Vercel's AI SDK: as real_loop.py.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, tool } from "ai";
import { z } from "zod";

const model = createOpenAICompatible({ name: "sluice", baseURL: process.env.SLUICE_URL + "/v1", apiKey: "none" })(process.env.SLUICE_MODEL);
const told = [];
for (let seed = 0; seed < 3; ++seed) {
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
  let text;
  try {
    ({ text } = await generateText({ model, tools, seed, prompt: "What is the weather in Paris?", stopWhen: stepCountIs(4), maxRetries: 0, temperature: 0.3 }));
  } catch (error) {
    text = String(error);
  }
  if (asked.some((city) => city.includes("Paris")) && text.includes("18")) {
    console.log(`ai-sdk, try ${seed + 1}: called with ${JSON.stringify(asked)}, then said ${JSON.stringify(text)}`);
    process.exit(0);
  }
  told.push(`called with ${JSON.stringify(asked)}, then ${JSON.stringify(text.slice(0, 200))}`);
}
console.log("no loop was whole:\n" + told.join("\n"));
process.exit(1);
