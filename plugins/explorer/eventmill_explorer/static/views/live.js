// Live: events as they are stored, refused ones with their reason, and where an event is.

import { html, useEffect, useState } from "../vendor/preact.js";
import { send, useAnswer } from "../api.js";
import { readFilters, toParameter } from "../filters.js";
import { full, time } from "../format.js";
import { Answer } from "../parts/answer.js";
import { Filters, Names, useProperties } from "../parts/choices.js";
import { EventDetails, Events } from "../parts/events.js";
import { Select } from "../parts/select.js";

const SHOWN = 200;
const REFUSED_MS = 3_000;
const AGAIN_MS = 3_000;

export function Live({ address, change, names }) {
  const properties = useProperties(address);
  const parameters = [
    ...address.getAll("event").map((name) => ["event_name", name]),
    ...readFilters(address).map(toParameter),
  ];
  const [isPaused, setPaused] = useState(false);
  const { events, state } = useLive(parameters);
  const [kept, setKept] = useState([]); // what is shown while paused
  const zone = address.get("tz");
  return html`
    <${Lookup} address=${address} change=${change} />
    <h2>Stored events</h2>
    <div class="controls">
      <${Names} address=${address} change=${change} names=${names} />
      <button type="button" class="secondary" onClick=${() => {
        setKept(events);
        setPaused(!isPaused);
      }}>${isPaused ? "Go on" : "Pause"}</button>
      <span role="status">${isPaused ? "paused; new events appear after Go on" : state}</span>
    </div>
    <${Filters} address=${address} change=${change} properties=${properties} />
    ${events.length ? html`<${Events} label="Stored events" events=${isPaused ? kept : events} zone=${zone} />` : html`<p class="waiting">New events appear here, about a second after they are posted.</p>`}
    <h2>Refused events</h2>
    <${Refused} zone=${zone} />
  `;
}

/** Return the events that arrive, newest first, and whether the server is reached. */
function useLive(parameters) {
  const [events, setEvents] = useState([]);
  const [state, setState] = useState("connecting …");
  useEffect(() => setEvents([]), [JSON.stringify(parameters)]);
  useEffect(() => {
    const controller = new AbortController();
    const show = (fresh) => setEvents((last) => [...fresh.reverse(), ...last].slice(0, SHOWN));
    listen(parameters, controller.signal, show, setState);
    return () => controller.abort();
  }, [JSON.stringify(parameters)]);
  return { events, state };
}

/** Read the server-sent events until aborted. EventSource cannot send a key, so this reads the stream itself. */
async function listen(parameters, signal, show, setState) {
  while (!signal.aborted) {
    try {
      const response = await send("events/live", { parameters, signal });
      setState("listening");
      let rest = "";
      for await (const text of textsOf(response.body)) {
        const messages = (rest + text).split("\n\n");
        rest = messages.pop();
        const data = messages.filter((message) => message.startsWith("data: "));
        if (messages.some((message) => message.startsWith("event: gap")))
          setState("listening; some events are not shown");
        if (data.length) show(data.map((message) => JSON.parse(message.slice("data: ".length))));
      }
    } catch (error) {
      if (signal.aborted) return;
      setState(`not connected: ${error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

async function* textsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

function Refused({ zone }) {
  const answer = useAnswer("events/refused", { parameters: [["limit", "1000"]] }, REFUSED_MS);
  return html`
    <${Answer} answer=${answer}>
      ${(refused) => (refused.length ? html`<${RefusedEvents} refused=${refused} zone=${zone} />` : html`<p class="waiting">No event was refused since the server started.</p>`)}
    <//>
  `;
}

function RefusedEvents({ refused, zone }) {
  return html`
    <p><small>${full(refused.length)} since the server started${refused.length === 1_000 ? ", the latest" : ""}</small></p>
    <ul class="refused">
      ${refused.map(
        (one) => html`
        <li key=${`${one.refused_at} ${one.payload}`}>
          <details>
            <summary><small>${time(one.refused_at, zone)}</small> <b><bdi>${one.field || one.reason}</bdi></b> <bdi>${one.message}</bdi></summary>
            <pre tabindex="0"><code>${one.payload}</code></pre>
          </details>
        </li>`,
      )}
    </ul>
  `;
}

/** Find out where an event is. */
function Lookup({ address, change }) {
  const zone = address.get("tz");
  const [kind, setKind] = useState(address.get("kind") ?? "event_id");
  const wanted = address.get("find");
  const answer = useAnswer(wanted && "events/lookup", {
    parameters: [
      [address.get("kind") ?? "event_id", wanted],
      ["from", "0"],
    ],
  });
  const submit = (event) => {
    event.preventDefault();
    change({ kind, find: new FormData(event.target).get("text").trim() });
  };
  return html`
    <form class="controls" aria-label="Look up an event" onSubmit=${submit}>
      <${Select} label="Look up by" value=${kind} options=${[
        ["event_id", "event id"],
        ["user_id", "user"],
      ]} onChoose=${setKind} />
      <input name="text" type="search" aria-label="Event id or user" placeholder="Where is my event?" value=${wanted ?? ""} required />
      <button type="submit">Find</button>
    </form>
    ${wanted && html`<${Answer} answer=${answer}>${(found) => html`<${Found} found=${found} zone=${zone} />`}<//>`}
  `;
}

const MEANINGS = {
  stored: "It is stored.",
  waiting: "It waits in the queue: the consumer has not stored everything of its time yet.",
  refused: "It was refused, for the reason below.",
  dead_lettered: "It is a dead letter: the store rejected it. The pipeline view can replay it.",
  unknown: "No such event was seen. Perhaps it was never sent, or it was refused before the server started.",
};

function Found({ found, zone }) {
  const events = [...found.stored, ...found.waiting];
  return html`
    <article class="found" data-state=${found.state}>
      <strong>${found.state.replace("_", " ")}</strong> ${MEANINGS[found.state]}
      ${found.notes.map((note) => html`<p><small>${note}</small></p>`)}
      ${events.length === 1 ? html`<${EventDetails} event=${events[0]} />` : events.length > 0 && html`<${Events} label="Found events" events=${events} zone=${zone} />`}
      ${found.refused.length > 0 && html`<${RefusedEvents} refused=${found.refused} zone=${zone} />`}
      ${found.dead_lettered.length > 0 && html`<pre tabindex="0"><code>${JSON.stringify(found.dead_lettered, null, 2)}</code></pre>`}
    </article>
  `;
}
