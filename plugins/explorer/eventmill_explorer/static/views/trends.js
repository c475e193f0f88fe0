// Trends: how many events and users there are, over time and by property.

import { html } from "../vendor/preact.js";
import { useAnswer } from "../api.js";
import { readFilters, toParameter } from "../filters.js";
import { change as changeOf, full, groupName, short } from "../format.js";
import { Answer } from "../parts/answer.js";
import { Chart, colorOf } from "../parts/chart.js";
import { Filters, Names, PropertySelect, TIMES, Time, spanOf, useProperties } from "../parts/choices.js";
import { NoEvents } from "../parts/empty.js";
import { Select } from "../parts/select.js";
import { OTHERS, isTime, seriesOf, valueOf } from "../parts/series.js";
import { Table } from "../parts/table.js";

const LIMIT = "8"; // groups beyond those are one
const REFRESH_MS = 30_000;
const SIMPLE = [
  ["users", "users"],
  ["count", "events"],
];
const MEASURES = ["sum", "avg", "min", "max", "p50", "p90", "p95", "p99"];
const NONE = [["", "none"]];

export function Trends({ address, change, names }) {
  const properties = useProperties(address);
  const groups = groupsOf(address);
  const question = [
    ...spanOf(address),
    ...address.getAll("event").map((name) => ["event_name", name]),
    ...readFilters(address).map(toParameter),
    ["measure", address.get("measure") ?? "users"],
  ];
  const compare = address.get("compare") ? [["compare", "previous"]] : [];
  const isTimed = groups.some(isTime);
  const series = useAnswer(
    "metrics",
    {
      parameters: [
        ...question,
        ...compare,
        ...groups.map((group) => ["group_by", group]),
        ...(groups.some((group) => !isTime(group)) ? [["limit", LIMIT]] : []),
        ...(isTimed ? [["fill", "true"]] : []),
      ],
    },
    address.has("to") ? 0 : REFRESH_MS,
  );
  return html`
    <div class="controls">
      <${Names} address=${address} change=${change} names=${names} />
      <${Time} address=${address} change=${change} />
      <${Measure} address=${address} change=${change} properties=${properties} />
      <${Groups} groups=${groups} change=${change} properties=${properties} />
      <${Look} address=${address} change=${change} isTimed=${isTimed} />
    </div>
    <${Filters} address=${address} change=${change} properties=${properties} />
    <${Answer} answer=${series}>
      ${(data) => {
        const asked = [data.group_by ?? []].flat(); // those of the last answer, while the next one is awaited
        const look = lookOf(address, asked.some(isTime));
        return data.total_count === 0 && !data.previous?.total_count
          ? html`<${NoEvents} address=${address} change=${change} />`
          : html`<${Totals} data=${data} /><${Picture} data=${data} groups=${asked} look=${look} /><${Parts} question=${question} compare=${compare} groups=${asked} data=${data} />`;
      }}
    <//>
  `;
}

/** Return up to two groups: by default, days. */
function groupsOf(address) {
  const groups = address.getAll("by").filter(Boolean);
  return address.has("by") ? groups.slice(0, 2) : ["day"];
}

const lookOf = (address, isTimed) => address.get("look") ?? (isTimed ? "line" : "bar");

function Measure({ address, change, properties }) {
  const [kind, property] = split(address.get("measure") ?? "users");
  const numbers = properties.filter((one) => one.types.number);
  const first = numbers[0]?.name ?? "metadata.value";
  const choose = (next) => change({ measure: MEASURES.includes(next) ? `${next}:${property || first}` : next });
  return html`
    <${Select} label="Measure" value=${kind} options=${[...SIMPLE, ...(numbers.length || property ? MEASURES.map((name) => [name, `${name} of`]) : [])]} onChoose=${choose} />
    ${property && html`<${PropertySelect} label="Measured property" value=${property} fields=${[]} properties=${numbers} onChoose=${(name) => change({ measure: `${kind}:${name}` })} />`}
  `;
}

function split(measure) {
  const at = measure.indexOf(":");
  return at < 0 ? [measure, ""] : [measure.slice(0, at), measure.slice(at + 1)];
}

function Groups({ groups, change, properties }) {
  const [first = "", second = ""] = groups;
  const times = TIMES.map((name) => [name, `by ${name}`]);
  const save = (...chosen) => change({ by: chosen.filter(Boolean).length ? [...new Set(chosen.filter(Boolean))] : "" });
  const offered = isTime(first) ? NONE : [...NONE, ...times]; // only one of two groups may be a time
  return html`
    <${PropertySelect} label="Group by" value=${first} extra=${[...NONE, ...times]} properties=${properties} onChoose=${(name) => save(name, isTime(name) && isTime(second) ? "" : second)} />
    <${PropertySelect} label="Then by" value=${second} extra=${offered} properties=${properties} onChoose=${(name) => save(first, name)} />
  `;
}

function Look({ address, change, isTimed }) {
  const look = lookOf(address, isTimed);
  return html`
    <${Select} label="Show as" value=${look} options=${(isTimed ? ["line", "bar", "table"] : ["bar", "table"]).map((name) => [name, name])} onChoose=${(name) => change({ look: name })} />
    <label class="check"><input type="checkbox" checked=${Boolean(address.get("compare"))} onChange=${(event) => change({ compare: event.target.checked ? "previous" : null })} /> compare with before</label>
  `;
}

function Totals({ data }) {
  const before = data.previous;
  const figures = [["events", data.total_count, before?.total_count]];
  if (data.unique_count !== undefined) figures.push(["users", data.unique_count, before?.unique_count]);
  if (data.value !== undefined) figures.push([data.measure, data.value, before?.value]);
  return html`
    <dl class="totals">
      ${figures.map(
        ([name, now, former]) => html`
        <div><dt><bdi>${name}</bdi></dt><dd title=${full(now)} data-total=${name}>${short(now)} ${before && html`<small title="before: ${full(former)}">${changeOf(now, former) || `before: ${short(former)}`}</small>`}</dd></div>`,
      )}
    </dl>
  `;
}

function Picture({ data, groups, look }) {
  if (!groups.length) return null;
  const { labels, series } = seriesOf(data, groups);
  if (look === "table") return html`<${Rows} data=${data} groups=${groups} />`;
  const isTimed = groups.some(isTime); // then `Parts` has the legend
  return html`<${Chart} kind=${look === "bar" && isTimed ? "column" : look} labels=${labels} series=${series} label="${data.measure ?? "users"} by ${groups.join(" and ")}" />${!isTimed && html`<${Rows} data=${data} groups=${groups} hasColors />`}${data.other?.length > 0 && html`<p><small>The ${LIMIT} largest groups; “${OTHERS}” is the rest.</small></p>`}`;
}

/** List the groups. With colors, it is the legend of a chart whose series are the second property. */
function Rows({ data, groups, hasColors }) {
  const order = [...new Set(data.groups.map((group) => [group.group_value].flat()[1]))];
  const nameOf = (title, at, { group_value, isOther }) => {
    if (isOther) return isTime(title) && group_value !== null ? group_value : OTHERS;
    const text = [group_value].flat()[at];
    return hasColors && at === 1
      ? html`<${Named} color=${colorOf(order.indexOf(text))} text=${groupName(text)} />`
      : groupName(text);
  };
  const columns = groups.map((title, at) => ({ title, cell: (group) => nameOf(title, at, group) }));
  return html`<${Table} caption="Groups" columns=${[...columns, ...figuresOf(data), ...changesOf(data, groups)]} rows=${rowsOf(data)} />`;
}

const Named = ({ color, text }) => html`<span class="swatch" style=${{ background: color }}></span><bdi>${text}</bdi>`;

const rowsOf = (data) => [...data.groups, ...(data.other ?? []).map((group) => ({ ...group, isOther: true }))];

/** Return a column with the comparison: the value before for times, and the change for other groups. */
function changesOf(data, groups) {
  if (!data.previous) return [];
  if (groups.length === 1 && isTime(groups[0])) {
    const values = data.previous.groups.map(valueOf);
    return [{ title: `${figuresOf(data).at(-1).title} before`, number: (group) => values[data.groups.indexOf(group)] }];
  }
  if (groups.some(isTime)) return [];
  const before = new Map(data.previous.groups.map((group) => [JSON.stringify(group.group_value), valueOf(group)]));
  const cell = (group) =>
    group.isOther
      ? ""
      : changeOf(valueOf(group), before.get(JSON.stringify(group.group_value))) || "not among the largest";
  return [{ title: "change", cell }];
}

const figuresOf = (data) => [
  { title: "events", number: (group) => group.total_count },
  ...(data.unique_count === undefined ? [] : [{ title: "users", number: (group) => group.unique_count }]),
  ...(data.value === undefined ? [] : [{ title: data.measure, number: (group) => group.value }]),
];

/** The legend of a chart: each group's exact total, of the whole time. Users of several days cannot be added up. */
function Parts({ question, compare, groups, data }) {
  const property = groups.length > 1 && groups.some(isTime) ? groups.find((group) => !isTime(group)) : null;
  const answer = useAnswer(property && "metrics", {
    parameters: [...question, ...compare, ["group_by", property], ["limit", LIMIT]],
  });
  if (!property || !answer.data?.groups) return null;
  const order = [...new Set(data.groups.map((group) => group.group_value[groups.indexOf(property)]))];
  const name = ({ group_value, isOther }) =>
    html`<${Named} color=${colorOf(order.indexOf(group_value), isOther)} text=${isOther ? OTHERS : groupName(group_value)} />`;
  const columns = [{ title: property, cell: name }, ...figuresOf(answer.data), ...changesOf(answer.data, [property])];
  return html`<${Table} caption="Totals by ${property}" columns=${columns} rows=${rowsOf(answer.data)} />`;
}
