// One scenario of OpenAI's own client for Node.js against a host; its outcome as JSON on stdout.
//   echo '{"baseURL": ..., "apiKey": ..., ...}' | node client.mjs SCENARIO

import { readFileSync } from "node:fs";
import OpenAI from "openai";

const given = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: given.baseURL, apiKey: given.apiKey, maxRetries: 0 });
const asked = { model: given.model, messages: given.messages, temperature: 0, max_tokens: 64 };

const scenarios = {
  async chat() {
    const answer = await client.chat.completions.create(asked);
    const [choice] = answer.choices;
    return { text: choice.message.content, end: choice.finish_reason, usage: answer.usage };
  },

  async stream() {
    const stream = await client.chat.completions.create({
      ...asked,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let end = null;
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      end = chunk.choices[0]?.finish_reason ?? end;
      usage = chunk.usage ?? usage;
    }
    return { text, end, usage };
  },

  // The client puts the pieces of a stream together itself, and checks them on the way.
  async collected() {
    const stream = client.chat.completions.stream(asked);
    const answer = await stream.finalChatCompletion();
    return { text: answer.choices[0].message.content, end: answer.choices[0].finish_reason };
  },

  async aborted() {
    const stream = await client.chat.completions.create({ ...asked, max_tokens: 1000, stream: true });
    for await (const _ of stream) break; // closes the connection
    return {};
  },

  async completion() {
    const answer = await client.completions.create({
      model: given.model,
      prompt: "The capital of France is",
      temperature: 0,
      max_tokens: 8,
    });
    return { text: answer.choices[0].text };
  },

  async structured() {
    const answer = await client.chat.completions.parse({
      ...asked,
      response_format: {
        type: "json_schema",
        json_schema: { name: "person", strict: true, schema: given.schema },
      },
    });
    return JSON.parse(answer.choices[0].message.content);
  },

  async tools() {
    const { messages, tools } = given;
    // A model as small as this one would call without an end, if it may call more than once.
    const one = { tool_choice: "required", parallel_tool_calls: false };
    const request = { ...asked, ...one, messages, tools, max_tokens: 200 };
    const whole = await client.chat.completions.create(request);
    const streamed = await client.chat.completions.stream(request).finalChatCompletion();
    const said = whole.choices[0].message;
    const results = said.tool_calls.map((call) => {
      return { role: "tool", tool_call_id: call.id, content: "written down" };
    });
    const after = await client.chat.completions.create({
      ...request,
      messages: [...messages, said, ...results],
      tool_choice: "none",
    });
    const calls = ({ choices }) => choices[0].message.tool_calls.map((call) => call.function);
    return {
      end: whole.choices[0].finish_reason,
      calls: calls(whole),
      streamed: calls(streamed).map(({ name, arguments: given }) => ({ name, arguments: given })),
      after: after.choices[0].message.content,
    };
  },

  // As base64, which the client asks for by itself.
  async embeddings() {
    const { data } = await client.embeddings.create({ model: given.model, input: given.input });
    return data.map((one) => one.embedding);
  },

  async models() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    return { listed, one: (await client.models.retrieve(given.model)).id };
  },

  async refused() {
    const { path, body, headers } = given;
    try {
      await client.post(`/${path}`, { body, headers });
      return { error: null };
    } catch (error) {
      const { status, code, type, param } = error;
      const retryAfter = error.headers?.get("retry-after") ?? null;
      return { error: error.constructor.name, status, code, type, param, retryAfter };
    }
  },

  // What came before a failure, and what the client makes of it.
  async broken() {
    let text = "";
    try {
      const stream = await client.chat.completions.create({ ...asked, stream: true });
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
      return { error: null, text };
    } catch (error) {
      return { error: error.constructor.name, code: error.code, message: error.message, text };
    }
  },
};

console.log(JSON.stringify(await scenarios[process.argv[2]]()));
