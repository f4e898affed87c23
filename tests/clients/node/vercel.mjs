// Vercel's `ai` with @ai-sdk/openai and @ai-sdk/openai-compatible: an object, a tool and text, `generateText` and `streamText`.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, streamText, tool } from "ai";
import { KEY, Lesson, serve, SYSTEM, TOOL } from "./program.mjs";

const PROVIDERS = {
  openai: (ask) => createOpenAI({ baseURL: ask.url, apiKey: KEY })(ask.model),
  "openai.chat": (ask) => createOpenAI({ baseURL: ask.url, apiKey: KEY }).chat(ask.model),
  "openai-compatible": (ask) => {
    const structured = { supportsStructuredOutputs: true, includeUsage: true };
    return createOpenAICompatible({ name: "lessons", baseURL: ask.url, apiKey: KEY, ...structured })(ask.model);
  },
};
const FORMS = {
  "Output.object": { output: Output.object({ schema: Lesson }) },
  tool: { tools: { [TOOL]: tool({ inputSchema: Lesson }) }, toolChoice: { type: "tool", toolName: TOOL } },
  text: {},
};

async function lessonOf(result, form) {
  if (form === "Output.object") return await result.output;
  if (form === "text") return await result.text;
  const [call] = await result.toolCalls;
  return call.input;
}

const way = (provider, form) => async (ask) => {
  const options = {
    model: PROVIDERS[provider](ask),
    system: SYSTEM,
    prompt: ask.text,
    providerOptions: { openai: { user: ask.user }, lessons: { user: ask.user } },
    maxRetries: ask.retries,
    timeout: ask.timeoutMs,
    abortSignal: ask.signal,
    ...FORMS[form],
  };
  if (!ask.stream) {
    const result = await generateText(options);
    return { lesson: await lessonOf(result, form), tokens: result.usage.totalTokens };
  }
  let failure;
  const result = streamText({ ...options, onError: ({ error }) => void (failure ??= error) });
  await result.consumeStream();
  if (failure) throw failure;
  return { lesson: await lessonOf(result, form), tokens: (await result.usage).totalTokens };
};

const names = Object.keys(PROVIDERS).flatMap((provider) => Object.keys(FORMS).map((form) => [provider, form]));
serve(Object.fromEntries(names.map(([provider, form]) => [`${provider}, ${form}`, way(provider, form)])));
