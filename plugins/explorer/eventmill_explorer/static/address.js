// The state of the page is the query string of its address: a view can be shared and bookmarked, and Back works.

import { useEffect, useState } from "./vendor/preact.js";

/**
 * Return the present parameters, and a function that changes some of them: {name: text, list of texts, or null}.
 *
 * With `isCorrection`, Back does not undo the change.
 */
export function useAddress() {
  const [search, setSearch] = useState(location.search);
  useEffect(() => {
    const follow = () => setSearch(location.search);
    addEventListener("popstate", follow);
    return () => removeEventListener("popstate", follow);
  }, []);
  const change = (changes, { isCorrection = false } = {}) => {
    const next = addressWith(new URLSearchParams(location.search), changes);
    if (next !== location.search) history[isCorrection ? "replaceState" : "pushState"](null, "", next);
    setSearch(location.search);
  };
  return [new URLSearchParams(search), change];
}

/** Name the time zone of the browser in an address that has none, so that everybody who gets it sees the same. */
export function nameTimeZone() {
  const parameters = new URLSearchParams(location.search);
  if (parameters.has("tz")) return;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  history.replaceState(null, "", addressWith(parameters, { tz: zone }));
}

/** Return the address of another view. All settings stay, so that the way back finds them. */
export const addressOf = (view, parameters) => addressWith(new URLSearchParams(parameters), { view });

/** Return the address of the start, in the same project. */
export const startOf = (parameters) => addressWith(new URLSearchParams(), { project: parameters.get("project") });

/** Go to an address of this page. */
export function follow(address) {
  if (address !== location.search) history.pushState(null, "", address);
  dispatchEvent(new Event("popstate"));
}

function addressWith(parameters, changes) {
  for (const [name, value] of Object.entries(changes)) {
    parameters.delete(name);
    for (const text of [value ?? []].flat()) parameters.append(name, text);
  }
  return `?${parameters}`;
}
