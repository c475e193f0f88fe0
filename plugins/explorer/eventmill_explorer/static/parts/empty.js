// What a view shows when there are no events: how to send the first one, or where the events are.

import { html, useRef, useState } from "../vendor/preact.js";
import { ask, hasKey, send, useAnswer } from "../api.js";
import { day, time } from "../format.js";

const SAMPLE = {
  project: "sample",
  from: "2015-05-17",
  to: "2015-05-20",
  tz: "UTC",
  event: null,
  where: null,
  by: ["hour", "channel"],
  view: "trends",
};

/** Say that no event matches, and when there was one. */
export function NoEvents({ address, change }) {
  const chosen = address.getAll("event").map((name) => ["event_name", name]);
  const newest = useAnswer("events", { parameters: [["from", "0"], ["limit", "1"], ...chosen] }).data?.events[0]
    ?.timestamp;
  const zone = address.get("tz");
  const show = () => change({ from: day(newest - 6 * 86_400, zone), to: day(newest, zone) });
  return html`
    <article class="empty">
      <strong>No event matches</strong>
      ${
        newest !== undefined &&
        html`
        <p>The newest event${chosen.length > 0 ? " with this name" : ""} is of <time>${time(newest, zone)}</time>.</p>
        <button type="button" onClick=${show}>Show the week before it</button>`
      }
      ${" "}${address.has("where") && html`<button type="button" class="secondary" onClick=${() => change({ where: null })}>Remove the filters</button>`}
    </article>
  `;
}

/** Show how to send the first event. The page notices it by itself. */
export function FirstEvent({ project, change }) {
  const address = `${location.origin}${location.pathname}`;
  const [now] = useState(() => Math.floor(Date.now() / 1000));
  const event = { event_name: "page_view", channel: "web", user_id: "ada", timestamp: now };
  const headers = { ...(hasKey() && { "X-API-Key": "KEY" }), ...(project && { "X-Project": project }) };
  const options = Object.entries(headers)
    .map(([name, value]) => `-H '${name}: ${value}' `)
    .join("");
  const python = Object.keys(headers).length ? `, headers=${JSON.stringify(headers)}` : "";
  const json = JSON.stringify(event);
  return html`
    <article class="empty">
      <h2>Send the first event</h2>
      <p>This page shows it about a second later.</p>
      <${Snippet} title="curl" text=${`curl ${address}events ${options}-d '${json}'`} />
      <${Snippet} title="Python" text=${`import httpx\n\nhttpx.post("${address}events", json=${json}${python})`} />
      ${!project && html`<${Snippet} title="eventmill" text=${`echo '${json}' | eventmill send - --url ${address}${hasKey() ? " --key KEY" : ""}`} />`}
      <h2>Or look at a sample</h2>
      <p>It is the access log of a web server, 9,999 events of four days in May 2015. It goes into a project of its own, <code>sample</code>.</p>
      <${LoadSample} change=${change} />
    </article>
  `;
}

function Snippet({ title, text }) {
  const [isCopied, setCopied] = useState(false);
  const code = useRef();
  const copy = async () => {
    getSelection().selectAllChildren(code.current);
    // Browsers have a clipboard for pages only on HTTPS and on this machine.
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else document.execCommand("copy");
    setCopied(true);
  };
  return html`
    <figure>
      <figcaption>${title} <button type="button" class="chip outline" aria-label="Copy the ${title} command" onClick=${copy}>${isCopied ? "copied" : "copy"}</button></figcaption>
      <pre tabindex="0"><code ref=${code}>${text}</code></pre>
    </figure>
  `;
}

function LoadSample({ change }) {
  const [state, setState] = useState({});
  const load = async () => {
    setState({ isBusy: true });
    try {
      await loadSample();
      change(SAMPLE);
    } catch (error) {
      setState({ error });
    }
  };
  return html`
    <button type="button" aria-busy=${state.isBusy ? "true" : "false"} disabled=${state.isBusy} onClick=${load}>Load the sample</button>
    ${state.error && html`<p role="alert">The sample cannot be loaded: ${state.error.message}.</p>`}
  `;
}

/** Post the sample, and wait until it can be asked for. */
async function loadSample() {
  const file = await fetch("explorer/sample.bin");
  const headers = { "Content-Type": "application/x-ndjson", "Content-Encoding": "gzip" };
  const { accepted } = await (
    await send("events/bulk", { method: "POST", body: await file.blob(), headers, project: SAMPLE.project })
  ).json();
  const deadline = Date.now() + 30_000;
  const parameters = [
    ["from", SAMPLE.from],
    ["to", SAMPLE.to],
    ["measure", "count"],
  ];
  for (;;) {
    const { total_count: stored } = await ask("metrics", { parameters, project: SAMPLE.project });
    if (stored >= accepted * 0.99) return; // some lines of the log are equal, and count once
    if (Date.now() > deadline) throw new Error("the events are accepted, but not stored yet: look at the pipeline");
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}
