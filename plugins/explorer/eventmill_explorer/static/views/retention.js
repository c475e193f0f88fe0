// Retention: how many users come back, by the time of their first event.

import { html } from "../vendor/preact.js";
import { useAnswer } from "../api.js";
import { readFilters, toText } from "../filters.js";
import { full, percent, short } from "../format.js";
import { Answer } from "../parts/answer.js";
import { Filters, Time, spanOf, useProperties } from "../parts/choices.js";
import { NoEvents } from "../parts/empty.js";
import { Select } from "../parts/select.js";

const UNITS = ["day", "week", "month"];

export function Retention({ address, change, names }) {
  const properties = useProperties(address);
  const unit = UNITS.includes(address.get("unit")) ? address.get("unit") : "day";
  const step = (name) => (address.get(name) ? { event_name: address.get(name) } : {});
  const body = {
    ...Object.fromEntries(spanOf(address)),
    unit,
    where: readFilters(address).map(toText),
    start: step("start"),
    return: step("return"),
  };
  const answer = useAnswer("retention", { body });
  const event = (label, parameter) => {
    const options = [["", `${label}: any event`], ...names.map(({ event_name: name }) => [name, `${label}: ${name}`])];
    return html`<${Select} label=${label} value=${address.get(parameter) ?? ""} options=${options} onChoose=${(name) => change({ [parameter]: name || null })} />`;
  };
  return html`
    <div class="controls">
      ${event("First", "start")} ${event("Return", "return")}
      <${Select} label="Unit" value=${unit} options=${UNITS.map((name) => [name, `by ${name}`])} onChoose=${(name) => change({ unit: name })} />
      <${Time} address=${address} change=${change} />
    </div>
    <${Filters} address=${address} change=${change} properties=${properties} />
    <${Answer} answer=${answer}>
      ${(data) => (data.cohorts.some((cohort) => cohort.users) ? html`<${Grid} cohorts=${data.cohorts} unit=${unit} />` : html`<${NoEvents} address=${address} change=${change} />`)}
    <//>
  `;
}

function Grid({ cohorts, unit }) {
  const width = Math.max(...cohorts.map((cohort) => cohort.periods.length));
  const shown = cohorts.filter((cohort) => cohort.users);
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="Users who come back">
      <table class="cohorts">
        <thead><tr><th scope="col">first ${unit}</th><th scope="col" class="number">users</th>${Array.from({ length: width }, (_, n) => html`<th scope="col" class="number">${n}</th>`)}</tr></thead>
        <tbody>${shown.map(
          (cohort) => html`
          <tr><th scope="row">${cohort.cohort}</th><td class="number" title=${full(cohort.users)}>${short(cohort.users)}</td>${cohort.periods.map((period) => html`<${Period} period=${period} size=${cohort.users} />`)}</tr>`,
        )}
        </tbody>
      </table>
    </div>
    <p><small>Column n: the share of users with a return event n ${unit}s later. Italic figures with * are of ${unit}s that are not over, and may grow.</small></p>
  `;
}

function Period({ period, size }) {
  const share = period.users / size;
  const shade = { "--share": `${Math.round(Math.sqrt(share) * 70)}%` };
  return html`<td class=${period.complete ? "number cell" : "number cell incomplete"} style=${shade} title=${`${full(period.users)} of ${full(size)} users`}>${percent(share)}${period.complete ? "" : "*"}</td>`;
}
