// Filters: [property, operator, value] in the page, a text of JSON in the address, parameters in a question.

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
  return operator.endsWith("=") ? [property + operator.slice(0, -1), value] : [property + operator + value, ""];
}

/** Return a filter as a text of `where` in the body of a question. */
export const toText = (filter) => {
  const [name, value] = toParameter(filter);
  return /[<>]/.test(filter[1]) && !filter[1].endsWith("=") ? name : `${name}=${value}`;
};

export const describeFilter = ([property, operator, value]) =>
  operator === "has" || operator === "lacks" ? `${operator} ${property}` : `${property} ${operator} ${value === "" ? "(empty)" : value}`;
