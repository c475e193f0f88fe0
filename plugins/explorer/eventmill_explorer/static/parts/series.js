// An answer about groups as the series of a chart.

import { groupName } from "../format.js";
import { colorOf } from "./chart.js";
import { TIMES } from "./choices.js";

export const OTHERS = "(all others)";

export const isTime = (group) => TIMES.includes(group);

/** Return what is measured of a group: its value, its users, or its events. */
export const valueOf = (group) => ("value" in group ? group.value : (group.unique_count ?? group.total_count));

const keysOf = (group) => [group.group_value].flat();
const distinct = (texts) => [...new Set(texts)];

/**
 * Return labels and series: the labels are times if there are some, else the texts of the first property.
 *
 * Times of the span before are other ones: its n-th value lies below the n-th label.
 */
export function seriesOf(data, groups) {
  const timeAt = groups.findIndex(isTime);
  const labelAt = Math.max(timeAt, 0);
  const labelOf = (group) => keysOf(group)[labelAt];
  const nameOf = (group) => (groups.length > 1 ? keysOf(group)[1 - labelAt] : null);
  const labels = distinct(data.groups.map(labelOf));
  const names = distinct(data.groups.map(nameOf));
  const series = arrange(data.groups, labels, names, labelOf, nameOf).map((values, at) => ({
    name: groups.length > 1 ? groupName(names[at]) : "now",
    values,
  }));
  if (timeAt >= 0 && data.other?.length) {
    const rest = new Map(data.other.map((group) => [group.group_value, valueOf(group)]));
    series.push({ name: OTHERS, isOther: true, values: labels.map((label) => rest.get(label) ?? null) });
  }
  if (timeAt >= 0 && data.previous) {
    const times = distinct(data.previous.groups.map(labelOf)).slice(0, labels.length);
    const former = arrange(data.previous.groups, times, names, labelOf, nameOf);
    const title = (at) => (groups.length > 1 ? `${groupName(names[at])} before` : "before");
    series.push(...former.map((values, at) => ({ name: title(at), isFormer: true, color: colorOf(at), values })));
  }
  return { labels: labels.map(groupName), series };
}

/** Return for each name its values by label, null where there is no group. */
function arrange(groups, labels, names, labelOf, nameOf) {
  const at = new Map(groups.map((group) => [JSON.stringify([labelOf(group), nameOf(group)]), valueOf(group)]));
  return names.map((name) => labels.map((label) => at.get(JSON.stringify([label, name])) ?? null));
}
