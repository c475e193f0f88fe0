// Numbers and times for people.

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });
const small = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const MANY = 100_000;
const HUGE = 1e15;

/** Return a number as people read it: 1,234 and 1.2M; a dash if there is none. */
export function short(number) {
  if (number == null) return "–";
  const size = Math.abs(number);
  if (size >= HUGE) return number.toExponential(2);
  if (size >= MANY) return compact.format(number);
  return (size < 1 ? small : exact).format(number);
}

/** Return a number with all its digits. */
export const full = (number) =>
  number == null ? "" : new Intl.NumberFormat("en", { maximumFractionDigits: 20 }).format(number);

export const percent = (share) => (share == null ? "–" : `${(share * 100).toFixed(1)}%`);

/** Return a change such as +12.5%; nothing if there was nothing before. */
export const change = (now, before) => {
  if (!before || now == null) return "";
  const share = now / before - 1;
  return `${share < 0 ? "−" : "+"}${Math.abs(share * 100).toFixed(1)}%`;
};

/** Return a duration as people say it: 320 ms, 42 s, 3 min, 5 h, 2 d. */
export const duration = (seconds) => {
  if (seconds == null) return "–";
  const units = [
    ["d", 86_400],
    ["h", 3_600],
    ["min", 60],
    ["s", 1],
  ];
  const [unit, size] = units.find(([, size]) => seconds >= size) ?? ["ms", 0.001];
  return `${exact.format(Number((seconds / size).toFixed(1)))} ${unit}`;
};

/** Return a time of the zone as 2025-12-26 03:00:00; of UTC if there is no such zone. */
export function time(seconds, zone) {
  const options = { dateStyle: "short", timeStyle: "medium" };
  try {
    return new Intl.DateTimeFormat("sv-SE", { ...options, timeZone: zone || "UTC" }).format(seconds * 1000);
  } catch {
    return new Intl.DateTimeFormat("sv-SE", { ...options, timeZone: "UTC" }).format(seconds * 1000);
  }
}

/** Return the day of a time of the zone as 2025-12-26. */
export const day = (seconds, zone) => time(seconds, zone).slice(0, 10);

/** Return a text that changes the direction of no other text, where an element <bdi> is not possible. */
export const isolate = (text) => `\u2068${text}\u2069`;

/** Return the JSON text with line breaks and indents, and otherwise as it is: large numbers keep their digits. */
export function indent(json) {
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  return json
    .replace(/"(?:[^"\\]|\\.)*"|[[\]{},:]|\s+/g, (token) => {
      if (token === "{" || token === "[") {
        depth += 1;
        return token + line();
      }
      if (token === "}" || token === "]") {
        depth -= 1;
        return line() + token;
      }
      if (token === ",") return token + line();
      if (token === ":") return ": ";
      return token.trim();
    })
    .replace(/([[{])\s+([\]}])/g, "$1$2");
}

/** Return the name of a group. `null` is that of events without the property. */
export const groupName = (text) => (text === null ? "(none)" : text === "" ? "(empty)" : text);
