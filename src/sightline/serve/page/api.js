// Requests to the server: errors as it words them, and server-sent events that may break anywhere between chunks.

let key = sessionStorage.getItem("key") ?? "";
export const keyed = () => key;
export function useKey(value) {
  key = value.trim();
  sessionStorage.setItem("key", key);
}

/** An answer that is none. `wait`: seconds after which another try may help; 0: none will. */
export class Failure extends Error {
  constructor(message, status = 0, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

/** The reply to a request; raises Failure with the server's own words. */
export async function fetched(path, body, signal) {
  const headers = { ...(key && { authorization: `Bearer ${key}` }), ...(body && { "content-type": "application/json" }) };
  const reply = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => null); // a proxy in between may answer in another form
  const wait = [429, 503].includes(reply.status) ? Number(reply.headers.get("retry-after")) || 0 : 0;
  throw new Failure(said?.error?.message ?? `${reply.status} ${reply.statusText}`, reply.status, wait);
}

/** The values of the `data:` events of a stream of bytes. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    left += done ? "\n\n" : value;
    const lines = left.split(/\r\n|\n|\r(?!$)/);
    left = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
    if (done) return;
  }
}

/** Deltas of an answer as they come; the last has `finish` and, where it is told, `tokens`. Raises Failure where it broke off. */
export async function* answered(body, signal) {
  const reply = await fetched("/v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  for await (const data of events(reply.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Failure(chunk.error.message);
    const [choice] = chunk.choices;
    yield { ...(choice?.delta ?? {}), finish: choice?.finish_reason ?? null, tokens: chunk.usage?.completion_tokens ?? null };
  }
  throw new Failure("");
}
