// Events one by one.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { send } from "../api.js";
import { indent, time } from "../format.js";

/** List events; each opens in full. */
export function Events({ label, events, zone }) {
  const [open, setOpen] = useState();
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${label}>
      <table>
        <thead><tr><th scope="col">time</th><th scope="col">event</th><th scope="col">channel</th><th scope="col">user</th><th scope="col">metadata</th></tr></thead>
        <tbody>${events.map(
          (event) => html`
          <tr key=${`${event.event_name} ${event.event_id} ${event.timestamp}`}>
            <td><time>${time(event.timestamp, zone)}</time></td>
            <td><button type="button" class="link" onClick=${() => setOpen(event)}><bdi>${event.event_name}</bdi></button></td>
            <td><bdi>${event.channel}</bdi></td>
            <td><bdi>${event.user_id}</bdi></td>
            <td class="cut"><bdi>${JSON.stringify(event.metadata)}</bdi></td>
          </tr>`,
        )}
        </tbody>
      </table>
    </div>
    ${open && html`<${EventDialog} event=${open} close=${() => setOpen()} />`}
  `;
}

function EventDialog({ event, close }) {
  const dialog = useRef();
  useEffect(() => dialog.current.showModal(), []);
  return html`
    <dialog ref=${dialog} aria-label="The event in full" onClose=${close}>
      <article>
        <${EventDetails} event=${event} />
        <form method="dialog"><button class="outline" autofocus>Close</button></form>
      </article>
    </dialog>
  `;
}

/** Show an event as the server has it: JavaScript would round large numbers. */
export function EventDetails({ event }) {
  const [text, setText] = useState(JSON.stringify(event));
  useEffect(() => {
    const parameters = ["event_name", "timestamp", "event_id"].map((name) => [name, String(event[name])]);
    const show = (list) => list.startsWith("[{") && setText(list.slice(1, -1));
    send("events", { parameters })
      .then((response) => response.text())
      .then(show, () => undefined);
  }, [event]);
  return html`<pre tabindex="0"><code>${indent(text)}</code></pre>`;
}
