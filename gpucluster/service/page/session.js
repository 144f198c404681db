// Who is signed in, and requests in their name. The token stays in this tab, and in a header.

const KEPT = "gpucluster";
export const session = { token: null, namespace: null, ...read() };

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

export function remember(changes) {
  Object.assign(session, changes);
  sessionStorage.setItem(KEPT, JSON.stringify(session));
}

export function forget() {
  Object.assign(session, { token: null, namespace: null });
  sessionStorage.removeItem(KEPT);
}

/** What the service refused, in its own words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Send a request; the answer is the response, whose body is still to be read. */
export async function send(path, { method = "GET", body, accept = "application/json", signal } = {}) {
  const headers = { Accept: accept };
  if (session.token) headers.Authorization = `Bearer ${session.token}`;
  if (session.namespace) headers["X-Namespace"] = session.namespace;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method, headers, signal,
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "omit",
    redirect: "error",
  }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer.");
  });
  if (response.ok) return response;
  const refused = new Refused(response.status, reason(await response.json().catch(() => null), response));
  if (response.status === 401) dispatchEvent(new CustomEvent("signed-out", { detail: refused }));
  throw refused;
}

/** Send a request; the answer is its JSON, or null. */
export async function call(path, options) {
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

function reason(answer, response) {
  if (Array.isArray(answer?.detail)) {
    return answer.detail.map((each) => `${each.loc.slice(1).join(".")}: ${each.msg}`).join("; ");
  }
  const { message, details } = answer?.error ?? {};
  if (!message) return `The server answered ${response.status}.`;
  return details?.hint ? `${message} (${details.hint})` : message;
}

/** Return the address of something of the API; parts are escaped. */
export function api(...parts) {
  return "/v1/" + parts.map((part) => encodeURIComponent(part)).join("/");
}
