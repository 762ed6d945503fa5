// What the page asks of the server: JSON, uploads with progress, and event streams. Knows no element.

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const LOST = "The server cannot be reached. What was acknowledged is kept; this page tries again.";

let key = sessionStorage.getItem("key") || "";

export function setKey(value) {
  key = value;
  sessionStorage.setItem("key", value);
}

function headers(extra = {}) {
  return key ? { Authorization: `Bearer ${key}`, ...extra } : extra;
}

async function failure(response) {
  let told = null;
  try {
    told = (await response.json()).error;
  } catch { /* no JSON: a proxy's page */ }
  return new ApiError(response.status, told?.message || `The server answered ${response.status}.`, told?.code);
}

async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, LOST);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

export async function call(method, path, body, signal) {
  const json = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const response = await send(path, { method, signal, ...json });
  return response.status === 204 ? null : response.json();
}

// The data of each event of a stream, parsed; ends at [DONE].
export async function* events(method, path, body, signal) {
  const form = body instanceof FormData;
  const response = await send(path, {
    method,
    signal,
    body: form ? body : JSON.stringify(body),
    headers: form ? { Accept: "text/event-stream" } : { "Content-Type": "application/json", Accept: "text/event-stream" },
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, LOST);
    }
    if (part.done) throw new ApiError(0, "The connection was lost before the end.");
    rest += part.value.replaceAll("\r\n", "\n");
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
      if (!data) continue;
      if (data === "[DONE]") return;
      const value = JSON.parse(data);
      if (value.error) throw new ApiError(value.error.status || 500, value.error.message, value.error.code);
      yield value;
    }
  }
}
