// Uses the official client against BASE_URL and prints one JSON object of what it saw.
// usage: node client.mjs BASE_URL MODEL
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 60_000 });
const chat = { model, messages: [{ role: "user", content: "Tell me about a cat." }], max_tokens: 24, temperature: 0 };
const completion = { model, prompt: "Tom had a red car.", max_tokens: 24, temperature: 0 };
const seen = {};

seen.models = [];
for await (const entry of client.models.list()) seen.models.push(entry.id);

const whole = await client.chat.completions.create(chat);
seen.chat = { text: whole.choices[0].message.content, finish: whole.choices[0].finish_reason, usage: whole.usage };

seen.chatStreamed = { text: "", finish: null, usage: null };
for await (const chunk of await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })) {
    for (const choice of chunk.choices) {
        seen.chatStreamed.text += choice.delta.content ?? "";
        seen.chatStreamed.finish = choice.finish_reason ?? seen.chatStreamed.finish;
    }
    seen.chatStreamed.usage = chunk.usage ?? seen.chatStreamed.usage;
}

// The helper checks more than the plain stream: roles, one finish_reason for each choice, the end.
const helper = await client.chat.completions.stream(chat).finalChatCompletion();
seen.helper = { text: helper.choices[0].message.content };

seen.completion = (await client.completions.create(completion)).choices[0].text;
seen.completionStreamed = "";
for await (const chunk of await client.completions.create({ ...completion, stream: true })) {
    for (const choice of chunk.choices) seen.completionStreamed += choice.text;
}

const question = { model, input: "Tell me about a cat.", max_output_tokens: 24, temperature: 0 };
const response = await client.responses.create(question);
seen.response = { text: response.output_text, status: response.status, usage: response.usage.output_tokens };
seen.responseStreamed = { text: "", types: [] };
for await (const event of await client.responses.create({ ...question, stream: true })) {
    seen.responseStreamed.types.push(event.type);
    if (event.type === "response.output_text.delta") seen.responseStreamed.text += event.delta;
}
seen.responseHelper = (await client.responses.stream(question).finalResponse()).output[0].content[0].text;

async function errorOf(fields) {
    try {
        await client.chat.completions.create({ ...chat, ...fields });
        return null;
    } catch (error) {
        return { name: error.constructor.name, status: error.status, code: error.code };
    }
}
seen.unknownModel = await errorOf({ model: "gpt-9" });
seen.badValue = await errorOf({ temperature: -1, stream: true });

try {
    await client.responses.create({ ...question, tools: [{ type: "web_search" }] });
} catch (error) {
    seen.builtIn = { name: error.constructor.name, message: error.message };
}

console.log(JSON.stringify(seen));
