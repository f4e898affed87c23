// What all Node client programs share: cases come in as lines of JSON, one a case, and each call's outcome goes out as one.
// The lines are those of ../python/program.py.

import { createInterface } from "node:readline";
import { z } from "zod";

export const KEY = "sk-of-the-app";
export const TOOL = "create_lesson";
export const SYSTEM = "You are a teacher. Write one short lesson.";

export const Lesson = z.object({
  title: z.string(),
  objectives: z.array(z.string()),
  content: z.string(),
  duration_minutes: z.number().int(),
});

// whatever a library logs must not stand between the lines
console.log = console.info = console.warn = console.error = console.debug = () => {};

function asked(line, who, signal) {
  const text = `Create a lesson about ${who.word}.\nSubject: Algebra 1\nTopic: Linear equations\nGrade: 9`;
  const shape = 'Return JSON: {"title": string, "objectives": [string], "content": string, "duration_minutes": integer}';
  const messages = (said = text) => [
    { role: "system", content: SYSTEM },
    { role: "user", content: said },
  ];
  const { url, model, stream, retries } = line;
  return { url, model, stream, retries, timeoutMs: line.timeout_s * 1000, user: who.user ?? undefined, text, jsonText: `${text}\n${shape}`, messages, signal };
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// Runs `ways`, a mapping of name → async function (ask) → {lesson, tokens}, until the input ends. A call that leaves is aborted.
export function serve(ways) {
  const running = new Map();

  async function one(line, call, controller) {
    const { case: name } = line;
    try {
      const { lesson, tokens = null } = await ways[line.way](asked(line, line.calls[call], controller.signal));
      say({ case: name, call, lesson: typeof lesson === "string" ? lesson : Lesson.parse(lesson), tokens });
    } catch (error) {
      if (controller.signal.aborted) return say({ case: name, call, error: "left", status: null });
      const cause = error.lastError ?? error;
      const status = cause.status ?? cause.statusCode ?? null;
      const type = ["Error", undefined].includes(error.name) ? error.constructor.name : error.name;
      say({ case: name, call, error: type, status, told: String(error.message ?? error).slice(0, 400) });
    }
  }

  createInterface({ input: process.stdin }).on("line", (text) => {
    const line = JSON.parse(text);
    if (line.leave) return line.calls.forEach((call) => running.get(`${line.leave} ${call}`).abort());
    line.calls.forEach((_, call) => {
      const controller = new AbortController();
      running.set(`${line.case} ${call}`, controller);
      one(line, call, controller);
    });
  });
  process.on("unhandledRejection", () => {});
  say({ ready: true });
}
