// The controls that several views share: events, time, filters, properties.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { useAnswer } from "../api.js";
import { OPERATORS, describeFilter, readFilters } from "../filters.js";
import { day, isolate, short } from "../format.js";
import { Select } from "./select.js";

const PRESETS = {
  "-1h": "last hour",
  "-24h": "last 24 hours",
  "-7d": "last 7 days",
  "-30d": "last 30 days",
  "-12w": "last 12 weeks",
  "-366d": "last year",
};
const LONG_PRESETS = ["-12w", "-366d"];
const DATE = /^\d{4}-\d\d-\d\d$/;
const FIRST_DAY = "1970-01-01"; // while someone types a year, it is an earlier one
const MANY_NAMES = 12;
const MOST_NAMES = 1_000; // of an answer
const NAMES_SECONDS = 30 * 86_400;
export const DEFAULT_FROM = "-30d";
const FIELDS = ["event_name", "channel", "campaign_id", "user_id", "tag"];
export const TIMES = ["minute", "hour", "day", "week", "month"];

/** Return the parameters of the time and the filters that the address names. */
export function spanOf(address) {
  const span = [["from", address.get("from") ?? DEFAULT_FROM]];
  for (const name of ["to", "tz"]) if (address.get(name)) span.push([name, address.get(name)]);
  return span;
}

/** Return the parameters of the last 30 days of that time at most: which events exist is soon answered for those. */
export function endOf(address) {
  const span = Object.fromEntries(spanOf(address));
  if (!span.to && span.from in PRESETS)
    return Object.entries({ ...span, from: LONG_PRESETS.includes(span.from) ? DEFAULT_FROM : span.from });
  if (!DATE.test(span.from) || (span.to && !DATE.test(span.to))) return Object.entries(span);
  const end = span.to ? Date.parse(span.to) / 1000 : Date.now() / 1000;
  const isLong = end - Date.parse(span.from) / 1000 > NAMES_SECONDS;
  return Object.entries(isLong ? { ...span, from: day(end - NAMES_SECONDS, "UTC") } : span);
}

/** Choose events by name; none means all. */
export function Names({ address, change, names }) {
  const [wanted, setWanted] = useState("");
  const details = useRef();
  const chosen = address.getAll("event");
  const known = [...new Set([...names.map((name) => name.event_name), ...chosen])];
  const shown = known.filter((name) => name.toLowerCase().includes(wanted.toLowerCase()));
  const toggle = (name) =>
    change({ event: chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name] });
  const counts = new Map(names.map((name) => [name.event_name, name.total_count]));
  const close = (event) => {
    if (event.key !== "Escape") return;
    details.current.open = false;
    details.current.firstElementChild.focus();
  };
  return html`
    <details class="dropdown" ref=${details} onKeyDown=${close}>
      <summary aria-label="Events">${chosen.length ? chosen.map(isolate).join(", ") : "All events"}</summary>
      <ul>
        ${known.length > MANY_NAMES && html`<li><input type="search" aria-label="Search events" placeholder=${known.length < MOST_NAMES ? "Search" : `Search the ${MOST_NAMES} most frequent`} value=${wanted} onInput=${(event) => setWanted(event.target.value)} /></li>`}
        ${shown.map(
          (name) => html`
          <li key=${name}><label>
            <input type="checkbox" checked=${chosen.includes(name)} onChange=${() => toggle(name)} />
            <bdi>${name}</bdi> <small>${short(counts.get(name))}</small>
          </label></li>`,
        )}
      </ul>
    </details>
  `;
}

/** Choose the time: a preset, or two dates; and the time zone. */
export function Time({ address, change }) {
  const from = address.get("from") ?? DEFAULT_FROM;
  const zone = address.get("tz") ?? "UTC";
  const isCustom = !(from in PRESETS) || address.get("to");
  const choose = (preset) => change(preset === "custom" ? lastDays(zone) : { from: preset, to: null });
  return html`
    <${Select} label="Time" value=${isCustom ? "custom" : from} options=${[...Object.entries(PRESETS), ["custom", "dates …"]]} onChoose=${choose} />
    ${
      isCustom &&
      html`
      <${Bound} label="From" value=${from} save=${(text) => text && change({ from: text })} />
      <${Bound} label="To" value=${address.get("to") ?? ""} save=${(text) => change({ to: text || null })} />`
    }
    <input list="zones" aria-label="Time zone" class="zone" value=${zone} onChange=${(event) => change({ tz: event.target.value || "UTC" })} />
    <datalist id="zones">${Intl.supportedValuesOf("timeZone").map((name) => html`<option value=${name} />`)}</datalist>
  `;
}

/** Choose an end of the time: a date, or what else the address has, such as a time. */
function Bound({ label, value, save }) {
  const type = value === "" || DATE.test(value) ? "date" : "text";
  const choose = ({ target }) =>
    (type === "date" && target.value && target.value < FIRST_DAY) || save(target.value.trim());
  return html`<input type=${type} aria-label=${label} value=${value} onChange=${choose} />`;
}

const lastDays = (zone) => ({ from: day(Date.now() / 1000 - 7 * 86_400, zone), to: day(Date.now() / 1000, zone) });

/** Return the properties that events of this time have, with frequent values. */
export function useProperties(address) {
  const parameters = [
    ...spanOf(address),
    ...address.getAll("event").map((name) => ["event_name", name]),
    ["sample", "2000"],
  ];
  return useAnswer("properties", { parameters }).data?.properties ?? [];
}

/** Choose a property. `extra` are further choices, as [value, text]. */
export function PropertySelect({ label, value, onChoose, properties, extra = [], fields = FIELDS }) {
  const paths = properties.map((property) => property.name).filter((name) => !fields.includes(name));
  const all = [...extra, ...[...fields, ...paths].map((name) => [name, name])];
  return html`<${Select} label=${label} value=${value} options=${all} onChoose=${onChoose} />`;
}

/** Show the filters, and add one. */
export function Filters({ address, change, properties }) {
  const filters = readFilters(address);
  const save = (kept) => change({ where: kept.map((filter) => JSON.stringify(filter)) });
  return html`
    <div class="filters">
      ${filters.map(
        (filter) => html`
        <button type="button" class="chip secondary" aria-label="Remove the filter ${describeFilter(filter)}" onClick=${() => save(filters.filter((one) => one !== filter))}>
          <bdi>${describeFilter(filter)}</bdi> ×
        </button>`,
      )}
      <${NewFilter} properties=${properties} add=${(filter) => save([...filters, filter])} />
    </div>
  `;
}

function NewFilter({ properties, add }) {
  const [isOpen, setOpen] = useState(false);
  const [property, setProperty] = useState("channel");
  const [operator, setOperator] = useState("=");
  const [value, setValue] = useState("");
  const opener = useRef();
  const wasOpen = useRef(false);
  useEffect(() => {
    if (!isOpen && wasOpen.current) opener.current.focus();
    wasOpen.current = isOpen;
  }, [isOpen]);
  const needsValue = operator !== "has" && operator !== "lacks";
  const submit = (event) => {
    event.preventDefault();
    add([property, operator, value]);
    setOpen(false);
    setValue("");
  };
  if (!isOpen)
    return html`<button type="button" class="chip outline" ref=${opener} onClick=${() => setOpen(true)}>+ Filter</button>`;
  const values = properties.find((one) => one.name === property)?.values ?? [];
  return html`
    <form class="new-filter" onSubmit=${submit} onKeyDown=${(event) => event.key === "Escape" && setOpen(false)}>
      <${PropertySelect} label="Property of the filter" value=${property} onChoose=${setProperty} properties=${properties} />
      <${Select} label="Comparison" value=${operator} options=${OPERATORS.map((name) => [name, name])} onChoose=${setOperator} />
      ${
        needsValue &&
        html`
        <input aria-label="Value" list="values" value=${value} required=${/[<>]/.test(operator)} autofocus onInput=${(event) => setValue(event.target.value)} />
        <datalist id="values">${values.map((one) => html`<option value=${one.value} />`)}</datalist>`
      }
      <button type="submit">Add</button>
      <button type="button" class="secondary" onClick=${() => setOpen(false)}>Cancel</button>
    </form>
  `;
}
