// Pipeline: what arrives, what waits, what failed.

import { html, useEffect, useState } from "../vendor/preact.js";
import { send, useAnswer } from "../api.js";
import { day, duration, full, isolate, short, time } from "../format.js";
import { Answer } from "../parts/answer.js";
import { Chart } from "../parts/chart.js";
import { Table } from "../parts/table.js";

const REFRESH_MS = 2_000;
const LOOKS = 60;
const LONG_AGO_SECONDS = 2 * 86_400;

export function Pipeline({ address }) {
  const status = useAnswer("status", {}, REFRESH_MS);
  const newest = useAnswer(
    "events",
    {
      parameters: [
        ["from", "0"],
        ["limit", "1"],
      ],
    },
    REFRESH_MS,
  ).data?.events[0]?.timestamp;
  const rates = useRates(status.data);
  const zone = address.get("tz");
  return html`
    <${Answer} answer=${status}>${(data) => html`<${State} data=${data} rates=${rates} newest=${newest} zone=${zone} />`}<//>
    <h2>Dead letters</h2>
    <${DeadLetters} zone=${zone} />
  `;
}

/** Return the events per second between two looks, of the last minutes. */
function useRates(data) {
  const [looks, setLooks] = useState([]);
  const since = data?.since_start;
  useEffect(() => {
    if (since)
      setLooks((last) =>
        [...last, { at: Date.now() / 1000, seconds: since.seconds, events: since.events_accepted }].slice(-LOOKS),
      );
  }, [since?.seconds]);
  return looks.slice(1).map((look, at) => {
    const before = looks[at];
    return {
      at: look.at,
      rate:
        look.seconds > before.seconds
          ? Math.max(0, (look.events - before.events) / (look.seconds - before.seconds))
          : null,
    };
  });
}

function State({ data, rates, newest, zone }) {
  const waiting = data.ready == null && data.in_flight == null ? null : (data.ready ?? 0) + (data.in_flight ?? 0);
  const figures = [
    ["accepted per second", rates.at(-1)?.rate],
    ["messages waiting", waiting],
    ["dead letters", data.dead],
    ["events since start", data.since_start.events_accepted],
  ];
  return html`
    <dl class="totals">
      <div><dt>queue</dt><dd><${Health} part=${data.queue} /></dd></div>
      <div><dt>store</dt><dd><${Health} part=${data.store} /></dd></div>
      ${figures.map(([name, number]) => html`<div><dt>${name}</dt><dd title=${full(number)}>${short(number)}</dd></div>`)}
      <div><dt>oldest message</dt><dd>${duration(waiting === 0 ? null : data.oldest_age_seconds)}</dd></div>
      <div><dt>newest event of the project</dt><dd title=${newest === undefined ? "" : time(newest, zone)}>${ageOf(newest, zone)}</dd></div>
    </dl>
    ${data.paused && html`<p role="alert">The consumers are paused${data.paused_because ? `: ${isolate(data.paused_because)}` : ""}. Events wait in the queue until eventmill resume.</p>`}
    ${rates.length > 1 && html`<${Chart} kind="line" label="Accepted events per second" labels=${rates.map(({ at }) => time(at, zone).slice(11))} series=${[{ name: "accepted per second", values: rates.map(({ rate }) => rate) }]} />`}
  `;
}

function ageOf(seconds, zone) {
  if (seconds == null) return "–";
  const age = Math.max(1, Math.round(Date.now() / 1000 - seconds));
  return age > LONG_AGO_SECONDS ? day(seconds, zone) : `${duration(age)} ago`;
}

function Health({ part }) {
  const isGood = part.status === "ok" && !part.warnings.length;
  const texts = [part.trouble, ...part.warnings].filter(Boolean);
  return html`<span class=${isGood ? "good" : "bad"}>${isGood ? "✓ ok" : `! ${part.status === "ok" ? "warning" : part.status}`}</span>${texts.map((text) => html`<small class="block">${text}</small>`)}`;
}

function DeadLetters({ zone }) {
  const answer = useAnswer("dead-letters", { parameters: [["limit", "50"]] });
  const [state, setState] = useState({});
  const replay = async (ids) => {
    setState({ isBusy: true });
    try {
      const lines = (await (await send("dead-letters/replay", { body: ids ? { ids } : {} })).text()).trim().split("\n");
      const last = JSON.parse(lines.at(-1));
      setState({ text: last.error ?? `${full(last.matched)} replayed; those that fail again come back` });
    } catch (error) {
      setState({ text: error.message });
    }
    answer.repeat();
  };
  return html`
    <${Answer} answer=${answer}>
      ${(data) =>
        data.total === 0
          ? html`<p class="waiting">There are no dead letters.</p>`
          : html`
          <p>${full(data.total)} in all: ${Object.entries(data.reasons)
            .map(([reason, count]) => `${reason} (${full(count)})`)
            .join(", ")}.
            ${" "}<button type="button" disabled=${state.isBusy} aria-busy=${state.isBusy ? "true" : "false"} onClick=${() => replay()}>Replay all</button></p>
          <${Letters} letters=${data.letters} replay=${replay} zone=${zone} />`}
    <//>
    <p role="status">${state.text}</p>
  `;
}

/** Show why a letter is dead, and what it holds. */
function Reason({ letter }) {
  const [isOpen, setOpen] = useState(false);
  const whole = useAnswer(isOpen && "dead-letters", {
    parameters: [
      ["id", letter.id],
      ["full", "true"],
    ],
  }).data?.letters[0];
  return html`
    <details onToggle=${(event) => setOpen(event.target.open)}>
      <summary><bdi>${letter.message || letter.reason}</bdi></summary>
      <pre tabindex="0"><code>${JSON.stringify(whole ?? letter, null, 2)}</code></pre>
    </details>
  `;
}

function Letters({ letters, replay, zone }) {
  const columns = [
    { title: "since", cell: (letter) => html`<time>${time(Date.parse(letter.died_at) / 1000, zone)}</time>` },
    { title: "reason", cell: (letter) => html`<${Reason} letter=${letter} />` },
    { title: "events", number: (letter) => letter.events },
    { title: "names", cell: (letter) => letter.event_names.map(isolate).join(", ") },
    {
      title: "",
      cell: (letter) =>
        html`<button type="button" class="chip" aria-label="Replay the letter ${letter.id}" onClick=${() => replay([letter.id])}>replay</button>`,
    },
  ];
  return html`<${Table} caption="Dead letters" columns=${columns} rows=${letters} />`;
}
