// openai-node's program: `create`, `parse` and the stream helper, of chat completions and of responses.

import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { KEY, Lesson, serve, SYSTEM, TOOL } from "./program.mjs";

const parameters = z.toJSONSchema(Lesson);
const FORMS = {
  "create, tool": {
    tools: [{ type: "function", function: { name: TOOL, parameters } }],
    tool_choice: { type: "function", function: { name: TOOL } },
  },
  "create, json_object": { response_format: { type: "json_object" } },
  "create, text": {},
  "parse, response_format": { response_format: zodResponseFormat(Lesson, "lesson") },
  "parse, tool": { tools: [zodFunction({ name: TOOL, parameters: Lesson })] },
};

function lessonOf(message, form) {
  switch (form) {
    case "create, text":
      return message.content;
    case "create, json_object":
      return JSON.parse(message.content);
    case "create, tool":
      return JSON.parse(message.tool_calls[0].function.arguments);
    case "parse, response_format":
      return message.parsed;
    default:
      return message.tool_calls[0].function.parsed_arguments;
  }
}

async function streamed(completions, body, options, form) {
  if (form.startsWith("parse")) return (await completions.stream(body, options).finalChatCompletion()).choices[0].message;
  const message = { content: "", tool_calls: [{ function: { arguments: "" } }] };
  for await (const chunk of await completions.create({ ...body, stream: true }, options)) {
    const { delta } = chunk.choices[0];
    message.content += delta.content ?? "";
    message.tool_calls[0].function.arguments += delta.tool_calls?.[0].function?.arguments ?? "";
  }
  return message;
}

const way = (form) => async (ask) => {
  const client = new OpenAI({ baseURL: ask.url, apiKey: KEY, maxRetries: ask.retries, timeout: ask.timeoutMs });
  const { completions } = client.chat;
  const body = { model: ask.model, user: ask.user, messages: ask.messages(form.includes("json_object") ? ask.jsonText : ask.text), ...FORMS[form] };
  const options = { signal: ask.signal };
  if (ask.stream) return { lesson: lessonOf(await streamed(completions, body, options, form), form) };
  const completion = await (form.startsWith("parse") ? completions.parse(body, options) : completions.create(body, options));
  return { lesson: lessonOf(completion.choices[0].message, form), tokens: completion.usage.total_tokens };
};

const RESPONSES = {
  "responses.create, tool": {
    tools: [{ type: "function", name: TOOL, parameters, strict: false }],
    tool_choice: { type: "function", name: TOOL },
  },
  "responses.create, text": {},
  "responses.parse, text": { text: { format: zodTextFormat(Lesson, "lesson") } },
};

const response = (form) => async (ask) => {
  const { responses } = new OpenAI({ baseURL: ask.url, apiKey: KEY, maxRetries: ask.retries, timeout: ask.timeoutMs });
  const body = { model: ask.model, user: ask.user, instructions: SYSTEM, input: ask.text, ...RESPONSES[form] };
  const options = { signal: ask.signal };
  const parses = form.startsWith("responses.parse");
  const asked = () => (parses ? responses.parse(body, options) : responses.create(body, options));
  const answer = await (ask.stream ? responses.stream(body, options).finalResponse() : asked());
  const lesson = parses ? answer.output_parsed : form.endsWith("tool") ? JSON.parse(answer.output[0].arguments) : answer.output_text;
  return { lesson, tokens: answer.usage.total_tokens };
};

const ways = Object.keys(FORMS).map((form) => [form, way(form)]);
serve(Object.fromEntries([...ways, ...Object.keys(RESPONSES).map((form) => [form, response(form)])]));
