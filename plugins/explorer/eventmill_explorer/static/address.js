// The state of the page is the query string of its address: a view can be shared and bookmarked, and Back works.

import { useEffect, useState } from "./vendor/preact.js";

const SHARED = ["project", "event", "from", "to", "tz", "where"]; // what a change of the view keeps

/** Return the present parameters, and a function that changes some of them: {name: text, list of texts, or null}. */
export function useAddress() {
  const [search, setSearch] = useState(location.search);
  useEffect(() => {
    const follow = () => setSearch(location.search);
    addEventListener("popstate", follow);
    return () => removeEventListener("popstate", follow);
  }, []);
  const change = (changes) => {
    history.pushState(null, "", addressWith(new URLSearchParams(location.search), changes));
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

/** Return the address of another view, about the same events and the same time. */
export function addressOf(view, parameters) {
  const kept = [...parameters].filter(([name]) => SHARED.includes(name));
  return addressWith(new URLSearchParams(kept), { view });
}

function addressWith(parameters, changes) {
  for (const [name, value] of Object.entries(changes)) {
    parameters.delete(name);
    for (const text of [value ?? []].flat()) parameters.append(name, text);
  }
  return `?${parameters}`;
}
