// One tool round trip: node round_trip.mjs CLIENT BASE_URL STREAM. Prints the call and the answer as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const [client, baseURL, stream] = process.argv.slice(2);
const streams = stream === "true";
const schema = { type: "object", properties: { location: { type: "string" } }, required: ["location"] };
const ask = "Weather in Rome?";

async function openai() {
  const api = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const tools = [{ type: "function", function: { name: "get_weather", parameters: schema } }];
  const messages = [{ role: "user", content: ask }];
  const complete = async () => {
    const body = { model: "any", messages, tools };
    const answer = streams
      ? await api.chat.completions.stream(body).finalChatCompletion()
      : await api.chat.completions.create(body);
    return answer.choices[0].message;
  };
  const first = await complete();
  const call = first.tool_calls[0];
  messages.push(first, { role: "tool", tool_call_id: call.id, content: "Cloudy" });
  const last = await complete();
  return { name: call.function.name, arguments: JSON.parse(call.function.arguments), answer: last.content };
}

async function responses() {
  const api = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const tools = [{ type: "function", name: "get_weather", parameters: schema, strict: false }];
  const complete = async (body) =>
    streams
      ? await api.responses.stream({ model: "any", tools, ...body }).finalResponse()
      : await api.responses.create({ model: "any", tools, ...body });
  const first = await complete({ input: ask });
  const call = first.output.find((item) => item.type === "function_call");
  const result = { type: "function_call_output", call_id: call.call_id, output: "Cloudy" };
  const last = await complete({ previous_response_id: first.id, input: [result] });
  return { name: call.name, arguments: JSON.parse(call.arguments), answer: last.output_text };
}

async function anthropic() {
  const api = new Anthropic({ baseURL: baseURL.replace(/\/v1$/, ""), apiKey: "none", maxRetries: 0 });
  const tools = [{ name: "get_weather", input_schema: schema }];
  const messages = [{ role: "user", content: ask }];
  const complete = async () => {
    const body = { model: "any", max_tokens: 500, messages, tools };
    return streams ? await api.messages.stream(body).finalMessage() : await api.messages.create(body);
  };
  const first = await complete();
  const call = first.content.find((block) => block.type === "tool_use");
  messages.push({ role: "assistant", content: first.content });
  messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "Cloudy" }] });
  const last = await complete();
  return { name: call.name, arguments: call.input, answer: last.content[0].text };
}

async function aiSdk() {
  const provider = createOpenAICompatible({ name: "abruzzi", baseURL, apiKey: "none" });
  let seen;
  const getWeather = tool({
    inputSchema: z.object({ location: z.string() }),
    execute: async (input) => ((seen = input), "Cloudy"),
  });
  const options = { model: provider("any"), prompt: ask, tools: { get_weather: getWeather }, stopWhen: stepCountIs(3) };
  const answer = streams ? await streamText(options).text : (await generateText(options)).text;
  return { name: "get_weather", arguments: seen, answer };
}

const clients = { openai, responses, anthropic, "ai-sdk": aiSdk };
console.log(JSON.stringify(await clients[client]()));
