// LangChain JS's program: structured output by its three methods, bound tools and plain text, `invoke` and `stream`.

import { ChatOpenAI } from "@langchain/openai";
import { KEY, Lesson, serve, TOOL } from "./program.mjs";

const chat = (ask, more = {}) =>
  new ChatOpenAI({
    ...more,
    model: ask.model,
    apiKey: KEY,
    configuration: { baseURL: ask.url },
    user: ask.user,
    maxRetries: ask.retries,
    timeout: ask.timeoutMs,
  });

// Of a stream's objects the last is the whole one; its message chunks add up.
async function asked(runnable, ask, text, { adds }) {
  const options = { signal: ask.signal };
  if (!ask.stream) return await runnable.invoke(ask.messages(text), options);
  let whole;
  for await (const part of await runnable.stream(ask.messages(text), options)) whole = adds && whole ? whole.concat(part) : part;
  return whole;
}

const structured = (method, more) => async (ask) => {
  const runnable = chat(ask, more).withStructuredOutput(Lesson, method && { method });
  return { lesson: await asked(runnable, ask, method === "jsonMode" ? ask.jsonText : ask.text, { adds: false }) };
};

async function boundTool(ask) {
  const runnable = chat(ask).bindTools([{ name: TOOL, description: "Create one lesson.", schema: Lesson }], { tool_choice: TOOL });
  const message = await asked(runnable, ask, ask.text, { adds: true });
  return { lesson: message.tool_calls[0].args, tokens: message.usage_metadata.total_tokens };
}

async function text(ask) {
  const message = await asked(chat(ask), ask, ask.text, { adds: true });
  return { lesson: message.content, tokens: message.usage_metadata.total_tokens };
}

serve({
  withStructuredOutput: structured(),
  "withStructuredOutput, functionCalling": structured("functionCalling"),
  "withStructuredOutput, jsonMode": structured("jsonMode"),
  bindTools: boundTool,
  text,
  "responses: withStructuredOutput": structured(undefined, { useResponsesApi: true }),
});
