/** A request that the server answers with server-sent events. */

/** The API's refusal, or what kept its answer from coming; the message is for people. */
export class ApiError extends Error {
  /**
   * @param {number} status of HTTP; 0 where there is none
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * @param {string} key sent as a bearer key unless it is empty
 * @returns {Record<string, string>}
 */
export function headersFor(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/**
 * Asks this server; a connection that fails becomes an ApiError, an abort stays what it is.
 *
 * @param {string} path relative to the page
 * @param {RequestInit} options
 * @returns {Promise<Response>} one with a status of success
 */
export async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    throw unreachable(error);
  }
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}

/**
 * Posts `body` and yields the JSON object of each event, up to the end mark.
 *
 * @param {string} path
 * @param {object} body
 * @param {string} key
 * @param {AbortSignal} signal
 */
export async function* stream(path, body, key, signal) {
  const headers = { "Content-Type": "application/json", ...headersFor(key) };
  const response = await ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw unreachable(error);
    });
    if (done) {
      throw new ApiError(0, "The connection ended before the answer did.");
    }
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event === "data: [DONE]") {
        return;
      }
      if (event.startsWith("data: ")) {
        yield checked(JSON.parse(event.slice(6)));
      }
    }
  }
}

/** A chunk, unless it is the error that ends a stream which had begun. */
function checked(chunk) {
  if (chunk.error) {
    throw new ApiError(0, chunk.error.message);
  }
  return chunk;
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered ${response.status} ${response.statusText}`.trim();
  const wait = response.headers.get("retry-after");
  return new ApiError(response.status, wait ? `${message} (retry in ${wait} s)` : message);
}

function unreachable(error) {
  return error.name === "AbortError" ? error : new ApiError(0, "The server cannot be reached.");
}
