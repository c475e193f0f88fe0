// Events & properties: what exists, how often, of which types, with sample values.

import { html } from "../vendor/preact.js";
import { useAnswer } from "../api.js";
import { readFilters, toParameter } from "../filters.js";
import { full, isolate, short, time } from "../format.js";
import { Answer } from "../parts/answer.js";
import { Filters, Time, spanOf } from "../parts/choices.js";
import { NoEvents } from "../parts/empty.js";
import { Events as EventList } from "../parts/events.js";
import { Table } from "../parts/table.js";

const SHOWN = "50";

export function Events({ address, change }) {
  const shared = [...spanOf(address), ...readFilters(address).map(toParameter)];
  const chosen = address.getAll("event").map((name) => ["event_name", name]);
  const list = useAnswer("event-names", { parameters: shared });
  const properties = useAnswer("properties", { parameters: [...shared, ...chosen] });
  const events = useAnswer("events", { parameters: [...shared, ...chosen, ["limit", SHOWN]] });
  const zone = address.get("tz");
  return html`
    <div class="controls"><${Time} address=${address} change=${change} /></div>
    <${Filters} address=${address} change=${change} properties=${properties.data?.properties ?? []} />
    <h2>Events</h2>
    <${Answer} answer=${list}>
      ${({ event_names: found }) => (found.length ? html`<${NameTable} found=${found} address=${address} change=${change} zone=${zone} />` : html`<${NoEvents} address=${address} change=${change} />`)}
    <//>
    <h2>Properties ${chosen.length > 0 && html`of ${address.getAll("event").map(isolate).join(", ")}`}</h2>
    <${Answer} answer=${properties}>${(data) => html`<${Properties} data=${data} />`}<//>
    <h2>Newest events</h2>
    <${Answer} answer=${events}>${(data) => html`<${EventList} label="Newest events" events=${data.events} zone=${zone} />`}<//>
  `;
}

function NameTable({ found, address, change, zone }) {
  const chosen = address.getAll("event");
  const select = (name) => change({ event: chosen.includes(name) ? chosen.filter((one) => one !== name) : [name] });
  const button = ({ event_name: name }) =>
    html`<button type="button" class="link" aria-pressed=${chosen.includes(name)} onClick=${() => select(name)}><bdi>${name}</bdi></button>`;
  const columns = [
    { title: "event", cell: button },
    { title: "events", number: (row) => row.total_count },
    { title: "users", number: (row) => row.unique_count },
    { title: "first", cell: (row) => html`<time>${time(row.first_seen, zone)}</time>` },
    { title: "last", cell: (row) => html`<time>${time(row.last_seen, zone)}</time>` },
  ];
  return html`<${Table} caption="Events" columns=${columns} rows=${found} />`;
}

function Properties({ data }) {
  const types = (row) => Object.keys(row.types).join(", ");
  const rows = [
    ...(data.tags.length ? [{ name: "tag", count: null, types: {}, values: data.tags }] : []),
    ...data.properties,
  ];
  const columns = [
    { title: "property", cell: (row) => row.name },
    { title: "types", cell: types },
    { title: "events", number: (row) => row.count },
    { title: "frequent values", cell: (row) => html`<${Values} values=${row.values} />` },
  ];
  return html`
    <p><small>${data.is_complete ? `All ${full(data.sampled)} events.` : `A sample: the newest ${full(data.sampled)} events.`}</small></p>
    <${Table} caption="Properties" columns=${columns} rows=${rows} />
  `;
}

const Values = ({ values }) =>
  html`<span class="values">${values.slice(0, 5).map(({ value, count }) => html`<span class="value" title=${`${full(count)} events`}><bdi>${value}</bdi> <small>${short(count)}</small></span>`)}</span>`;
