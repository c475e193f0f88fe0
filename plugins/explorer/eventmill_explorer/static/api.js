// The client of the HTTP API.

import { useEffect, useRef, useState } from "./vendor/preact.js";

const KEY = "eventmill-key"; // in sessionStorage: the browser forgets it with the tab
const DENIED = [401, 403]; // asking again does not help
const LOST_MS = 3_000;
const REST = 5; // after an answer, a refresh waits at least this many times as long as it took
export const NEEDS_KEY = "needs-key"; // an event of the window

export class ApiError extends Error {
  constructor(status, { message, field }) {
    super(message);
    this.status = status;
    this.field = field;
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const forgetKey = () => sessionStorage.removeItem(KEY);

/** Return the response to a request. Throw ApiError for one that is not successful. */
export async function send(path, { parameters = [], body, headers = {}, method, project, signal } = {}) {
  const key = sessionStorage.getItem(KEY);
  const chosen = project ?? new URLSearchParams(location.search).get("project");
  const query = new URLSearchParams(parameters).toString();
  const isJson = body !== undefined && !(body instanceof Blob);
  const response = await fetch(query ? `${path}?${query}` : path, {
    method: method ?? (body === undefined ? "GET" : "POST"),
    body: isJson ? JSON.stringify(body) : body,
    cache: "no-store",
    headers: {
      ...(isJson && { "Content-Type": "application/json" }),
      ...(key && { "X-API-Key": key }),
      ...(chosen && { "X-Project": chosen }),
      ...headers,
    },
    signal,
  });
  if (response.ok) return response;
  if (response.status === 401) dispatchEvent(new Event(NEEDS_KEY));
  throw new ApiError(response.status, await readError(response));
}

async function readError(response) {
  try {
    return await response.json();
  } catch {
    return { message: `the server answers ${response.status} ${response.statusText}` };
  }
}

/** Return the JSON of a response. */
export async function ask(path, options) {
  return (await send(path, options)).json();
}

/**
 * Ask when the question changes, and again after `refreshMs`, later if answers are slow; without a path, ask nothing.
 *
 * Return {data, error, isLoading, isRefresh, repeat, cancel}. While a new answer is awaited, `data` is the last one. A
 * question that another one replaces is cancelled, here and on the server.
 */
export function useAnswer(path, options = {}, refreshMs = 0) {
  const [state, setState] = useState({ isLoading: true });
  const [round, setRound] = useState(0);
  const pending = useRef();
  const question = JSON.stringify([path, options]);
  useEffect(() => {
    if (!path) return undefined;
    const controller = new AbortController();
    const started = performance.now();
    pending.current = controller;
    setState((last) => ({
      data: last.data,
      isLoading: true,
      isRefresh: Boolean(last.data) && last.question === question,
      question,
    }));
    ask(path, { ...options, signal: controller.signal }).then(
      (data) => setState({ data, isLoading: false, question, tookMs: performance.now() - started }),
      (error) =>
        controller.signal.aborted ||
        setState({ error, isLoading: false, question, tookMs: performance.now() - started }),
    );
    return () => controller.abort();
  }, [question, round]);
  const isDenied = DENIED.includes(state.error?.status);
  const isLost = state.error && state.error.status === undefined; // nobody answers: perhaps the server restarts
  const pauseMs = isLost ? LOST_MS : refreshMs;
  useEffect(() => {
    if (!pauseMs || state.isLoading || isDenied) return undefined;
    const timer = setTimeout(() => setRound((last) => last + 1), Math.max(pauseMs, REST * state.tookMs));
    return () => clearTimeout(timer);
  }, [pauseMs, state.isLoading, isDenied]);
  const cancel = () => {
    pending.current.abort();
    setState({ error: new ApiError(0, { message: "You cancelled it" }), isLoading: false, question, tookMs: 0 });
  };
  return { ...state, repeat: () => setRound((last) => last + 1), cancel };
}
