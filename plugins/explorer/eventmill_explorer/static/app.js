// The page: its views, the project, the key.

import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./vendor/preact.js";
import { addressOf, follow, nameTimeZone, startOf, useAddress } from "./address.js";
import { NEEDS_KEY, forgetKey, hasKey, setKey, useAnswer } from "./api.js";
import { endOf, spanOf } from "./parts/choices.js";
import { FirstEvent } from "./parts/empty.js";
import { Select } from "./parts/select.js";
import { Events } from "./views/events.js";
import { Funnel } from "./views/funnel.js";
import { Live } from "./views/live.js";
import { Pipeline } from "./views/pipeline.js";
import { Retention } from "./views/retention.js";
import { Trends } from "./views/trends.js";

const VIEWS = {
  trends: ["Trends", Trends],
  funnel: ["Funnel", Funnel],
  retention: ["Retention", Retention],
  live: ["Live", Live],
  events: ["Events", Events],
  pipeline: ["Pipeline", Pipeline],
};
const NAMES_MS = 30_000;
const EMPTY_MS = 1_000;

function App() {
  const [address, change] = useAddress();
  const [visit, setVisit] = useState(0); // grows with each key: everything is asked again
  useShortcuts(address);
  const view = Object.hasOwn(VIEWS, address.get("view") ?? "") ? address.get("view") : "trends";
  useEffect(() => {
    document.title = `${VIEWS[view][0]} – eventmill`;
  }, [view]);
  return html`
    <${Header} key=${visit} view=${view} address=${address} change=${change} forget=${() => {
      forgetKey();
      setVisit(visit + 1);
    }} />
    <main><${View} key=${`${visit} ${view} ${address.get("project")}`} view=${view} address=${address} change=${change} /></main>
    <${KeyDialog} enter=${(key) => {
      setKey(key);
      setVisit(visit + 1);
    }} />
  `;
}

function View({ view, address, change }) {
  const [error, tryAgain] = useErrorBoundary();
  const [isEmpty, setEmpty] = useState(false);
  const newest = useAnswer(
    "events",
    {
      parameters: [
        ["from", "0"],
        ["limit", "1"],
      ],
    },
    isEmpty ? EMPTY_MS : 0,
  );
  const { names, isNaming } = useNames(address);
  useEffect(() => newest.data && setEmpty(newest.data.events.length === 0), [newest.data]);
  useEffect(() => {
    if (error) tryAgain();
  }, [location.search]);
  const [title, Shown] = VIEWS[view];
  if (error)
    return html`<article class="trouble" role="alert"><strong>This view cannot be shown</strong><p>${error.message}. Change the address, or <a href=${startOf(address)}>start again</a>.</p></article>`;
  const needsEvents = !["live", "pipeline"].includes(view);
  return html`
    <h1 class="hidden">${title}</h1>
    ${isEmpty && needsEvents ? html`<${FirstEvent} project=${address.get("project")} change=${change} />` : html`<${Shown} address=${address} change=${change} names=${names} isNaming=${isNaming} />`}
  `;
}

/** Return the names of events of the last days of the time, or else of all of it, and whether they are still asked for. */
function useNames(address) {
  const recent = useAnswer("event-names", { parameters: endOf(address) }, NAMES_MS);
  const isLacking = recent.data?.event_names.length === 0;
  const all = useAnswer(isLacking && "event-names", { parameters: spanOf(address) });
  const answer = isLacking ? all : recent;
  return { names: answer.data?.event_names ?? [], isNaming: !answer.data && !answer.error };
}

function Header({ view, address, change, forget }) {
  const show = (event, name) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    follow(addressOf(name, address));
  };
  return html`
    <header>
      <a class="brand" href=${startOf(address)}><img src="explorer/icon.svg" alt="" width="24" height="24" /> eventmill</a>
      <nav aria-label="Views">
        ${Object.entries(VIEWS).map(([name, [title]], at) => html`<a href=${addressOf(name, address)} aria-current=${name === view ? "page" : null} title="Key ${at + 1}" onClick=${(event) => show(event, name)}>${title}</a>`)}
      </nav>
      <div class="tools">
        <${Projects} address=${address} change=${change} />
        ${hasKey() && html`<button type="button" class="chip outline" onClick=${forget}>Forget the key</button>`}
        <${Theme} />
      </div>
    </header>
  `;
}

/** Choose a project, if the key is for all of them. */
function Projects({ address, change }) {
  const { data } = useAnswer("projects");
  const chosen = address.get("project") ?? "";
  if (!data || (data.projects.length < 2 && !chosen)) return null;
  return html`
    <${Select}
      label="Project"
      value=${chosen}
      options=${[["", "default project"], ...data.projects.map((name) => [name, name])]}
      onChoose=${(name) => change({ project: name || null, event: null, step: null, where: null })}
    />
  `;
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem("theme") ?? "");
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    localStorage.setItem("theme", theme);
  }, [theme]);
  return html`<${Select} label="Colors" value=${theme} options=${[
    ["", "auto"],
    ["light", "light"],
    ["dark", "dark"],
  ]} onChoose=${setTheme} />`;
}

/** Ask for a key when the server wants one. It stays in this tab of the browser. */
function KeyDialog({ enter }) {
  const dialog = useRef();
  const [isWrong, setWrong] = useState(false);
  useEffect(() => {
    const open = () => {
      setWrong(hasKey());
      if (!dialog.current.open) dialog.current.showModal();
    };
    addEventListener(NEEDS_KEY, open);
    return () => removeEventListener(NEEDS_KEY, open);
  }, []);
  const submit = (event) => enter(new FormData(event.target).get("key").trim());
  return html`
    <dialog ref=${dialog} aria-labelledby="key-title">
      <article>
        <form method="dialog" onSubmit=${submit}>
          <h2 id="key-title">This server needs a key</h2>
          ${isWrong && html`<p role="alert">The server does not accept the key that was entered.</p>`}
          <label>A key that may read <input name="key" type="password" autocomplete="off" placeholder="emr_…" pattern="[!-~]+" title="A key has letters, digits and signs of ASCII" required /></label>
          <p><small>It stays in this tab only. Create one with eventmill keys new --scope read.</small></p>
          <button type="submit">Show my events</button>
        </form>
      </article>
    </dialog>
  `;
}

/** 1 to 6 choose a view. */
function useShortcuts(address) {
  useEffect(() => {
    const press = (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea, dialog"))
        return;
      const name = Object.keys(VIEWS)[Number(event.key) - 1];
      if (name) follow(addressOf(name, address));
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
}

nameTimeZone();
render(html`<${App} />`, document.body);
