// A list to choose from.

import { html, useLayoutEffect, useRef } from "../vendor/preact.js";

/** Choose one of `options`, which are [value, text]. It shows `value` whatever the browser has made of a choice. */
export function Select({ label, value, options, onChoose }) {
  const element = useRef();
  const known = options.some(([one]) => one === value) ? options : [...options, [value, value]];
  useLayoutEffect(() => {
    element.current.value = value;
  });
  return html`
    <select ref=${element} aria-label=${label} onChange=${(event) => onChoose(event.target.value)}>
      ${known.map(([one, text]) => html`<option key=${one} value=${one}>${text}</option>`)}
    </select>
  `;
}
