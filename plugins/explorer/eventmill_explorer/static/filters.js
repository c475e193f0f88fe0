// Filters: [property, operator, value] in the page, a text of JSON in the address, parameters in a question.

import { isolate } from "./format.js";

export const OPERATORS = ["=", "!=", "<", "<=", ">", ">=", "has", "lacks"];

export const readFilters = (address) => address.getAll("where").flatMap(readFilter);

function readFilter(text) {
  try {
    const [property, operator, value] = JSON.parse(text);
    return OPERATORS.includes(operator) ? [[String(property), operator, String(value ?? "")]] : [];
  } catch {
    return []; // someone edited the address
  }
}

/** Return a filter as a parameter of a query string, which a server cuts at the first `=`. */
export function toParameter([property, operator, value]) {
  if (operator === "has" || operator === "lacks") return [operator, property];
  const name = property.replace(/[<>]/g, "\\$&").replace(/!$/, "\\!"); // signs in a key are no operators
  return operator.endsWith("=") ? [name + operator.slice(0, -1), value] : [name + operator + value, ""];
}

/** Return a filter as a text of `where` in the body of a question. */
export const toText = (filter) => {
  const [name, value] = toParameter(filter);
  return filter[1] === "<" || filter[1] === ">" ? name : `${name}=${value}`;
};

export const describeFilter = ([property, operator, value]) =>
  operator === "has" || operator === "lacks"
    ? `${operator} ${isolate(property)}`
    : `${isolate(property)} ${operator} ${value === "" ? "(empty)" : isolate(value)}`;
