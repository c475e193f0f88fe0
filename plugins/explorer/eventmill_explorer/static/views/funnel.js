// Funnel: how many users go from step to step.

import { html, useEffect } from "../vendor/preact.js";
import { useAnswer } from "../api.js";
import { readFilters, toText } from "../filters.js";
import { duration, full, groupName, percent, short } from "../format.js";
import { Answer } from "../parts/answer.js";
import { Filters, PropertySelect, Time, spanOf, useProperties } from "../parts/choices.js";
import { NoEvents } from "../parts/empty.js";
import { Select } from "../parts/select.js";
import { Table } from "../parts/table.js";

const WINDOWS = [
  ["1h", "within 1 hour"],
  ["1d", "within 1 day"],
  ["7d", "within 7 days"],
  ["30d", "within 30 days"],
];
const DEFAULT_WINDOW = "7d";
const MOST_STEPS = 10;
const DEFAULT_STEPS = 2;

export function Funnel({ address, change, names, isNaming }) {
  const properties = useProperties(address);
  const steps = stepsOf(address, names);
  const group = address.get("split") ?? "";
  useEffect(() => {
    if (!address.has("step") && steps.length === DEFAULT_STEPS) change({ step: steps }, { isCorrection: true });
  }, [steps.length]);
  const limit = address.get("window") ?? DEFAULT_WINDOW;
  const where = readFilters(address).map(toText);
  const body = {
    ...Object.fromEntries(spanOf(address)),
    window: limit,
    where,
    steps: steps.map((name) => ({ event_name: name })),
    ...(group && { group_by: group }),
  };
  const answer = useAnswer(steps.length >= 2 && "funnels", { body });
  return html`
    <div class="controls">
      <${Time} address=${address} change=${change} />
      <${Select} label="Window" value=${limit} options=${WINDOWS} onChoose=${(next) => change({ window: next })} />
      <${PropertySelect} label="Group by" value=${group} extra=${[["", "all users"]]} fields=${["channel", "campaign_id"]} properties=${properties} onChoose=${(name) => change({ split: name || null })} />
    </div>
    <${Steps} steps=${steps} names=${names} change=${change} />
    <${Filters} address=${address} change=${change} properties=${properties} />
    ${
      steps.length < 2
        ? isNaming
          ? html`<p class="waiting">Asking …</p>`
          : html`<p class="waiting">Choose two events or more: a funnel counts the users who go from one to the next.</p>`
        : html`<${Answer} answer=${answer}>${(data) => (data.steps[0].users ? html`<${Result} data=${data} steps=${steps.slice(0, data.steps.length)} />` : html`<${NoEvents} address=${address} change=${change} />`)}<//>`
    }
  `;
}

/** Return the steps of the address, or the two most frequent events. */
function stepsOf(address, names) {
  return address.has("step")
    ? address.getAll("step").filter(Boolean)
    : names.slice(0, DEFAULT_STEPS).map((name) => name.event_name);
}

function Steps({ steps, names, change }) {
  const save = (next) => change({ step: next.length ? next : "" });
  const offered = names.map(({ event_name: name }) => [name, name]);
  return html`
    <ol class="steps">
      ${steps.map(
        (step, at) => html`
        <li>
          <${Select} label="Step ${at + 1}" value=${step} options=${offered} onChoose=${(name) => save(steps.with(at, name))} />
          <button type="button" class="chip outline" aria-label="Remove step ${at + 1}" onClick=${() => save(steps.toSpliced(at, 1))}>×</button>
        </li>`,
      )}
      ${steps.length < MOST_STEPS && html`<li><${Select} label="New step" value="" options=${[["", "+ step"], ...offered]} onChoose=${(name) => save([...steps, name])} /></li>`}
    </ol>
  `;
}

function Result({ data, steps }) {
  return html`
    <ol class="funnel" aria-label="Users by step">
      ${data.steps.map(
        (step, at) => html`
        <li>
          <span><bdi>${steps[at]}</bdi></span>
          <div class="bar" style=${{ width: `${(step.conversion ?? 0) * 100}%` }}></div>
          <b title=${full(step.users)} data-step=${at}>${short(step.users)}</b> <small>${percent(step.conversion)}${at ? `, ${percent(step.step_conversion)} of the step before, median ${duration(step.median_seconds)}` : ""}</small>
        </li>`,
      )}
    </ol>
    ${data.groups.length > 0 && html`<${Groups} data=${data} steps=${steps} />`}
  `;
}

function Groups({ data, steps }) {
  const columns = [
    { title: data.group_by, cell: (group) => groupName(group.group_value) },
    ...steps.map((name, at) => ({ title: name, number: (group) => group.steps[at].users })),
    { title: "conversion", cell: (group) => percent(group.steps.at(-1).conversion) },
    { title: "median of the last step", cell: (group) => duration(group.steps.at(-1).median_seconds) },
  ];
  return html`<${Table} caption="Users by step and ${data.group_by}" columns=${columns} rows=${data.groups} />`;
}
