// What a view shows instead of an answer, or around it: loading, errors, questions that are too large, no events.

import { html } from "../vendor/preact.js";
import { NEEDS_KEY } from "../api.js";

/** Show an answer of `useAnswer` by a function of its data. The last answer stays, paler, until the next one is there. */
export function Answer({ answer, children }) {
  const { data, error, isLoading, isRefresh } = answer;
  if (error) return html`<${Trouble} error=${error} repeat=${answer.repeat} />`;
  const isWaiting = isLoading && !isRefresh;
  return html`
    <div class="answer" aria-busy=${isWaiting ? "true" : "false"}>
      ${isWaiting && html`<p class="asking" role="status"><span aria-busy="true">Asking …</span> <button type="button" class="chip outline" onClick=${answer.cancel}>Cancel</button></p>`}
      ${data !== undefined && html`<div class="content">${children(data)}</div>`}
    </div>
  `;
}

function Trouble({ error, repeat }) {
  if (error.status === 401) {
    return html`
      <article class="trouble" role="alert">
        <p>This server needs a key to show its events.</p>
        <button type="button" onClick=${() => dispatchEvent(new Event(NEEDS_KEY))}>Enter a key</button>
      </article>`;
  }
  if (error.status === 403) return html`<p role="alert">This key may not see this: ${error.message}.</p>`;
  return html`
    <article class="trouble" role="alert">
      <strong>${titleOf(error)}</strong>
      <p>${error.message}.</p>
      <button type="button" class="secondary" onClick=${repeat}>Try again</button>
    </article>
  `;
}

function titleOf({ status, message }) {
  if (status === 400 && /^(the query |the statement |there are more than )/.test(message))
    return "This question is too large";
  if (status === 400) return "This question has an error";
  if (status === 503) return "The server is busy, or its store is not available";
  if (status) return "The server cannot answer";
  return message.startsWith("You") ? "No answer" : "The server does not respond";
}
