// A table of answers.

import { html } from "../vendor/preact.js";
import { full, short } from "../format.js";

/**
 * Show rows below their columns.
 *
 * columns: [{title, cell: row → text or element, number: row → number}]; a number is short, and exact when pointed at.
 */
export function Table({ caption, columns, rows }) {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${caption}>
      <table>
        <caption class="hidden">${caption}</caption>
        <thead><tr>${columns.map(({ title, number }) => html`<th scope="col" class=${number ? "number" : ""}>${title}</th>`)}</tr></thead>
        <tbody>${rows.map((row) => html`<tr>${columns.map((column) => html`<${Cell} column=${column} row=${row} />`)}</tr>`)}</tbody>
      </table>
    </div>
  `;
}

function Cell({ column: { cell, number }, row }) {
  if (!number) return html`<td><bdi>${cell(row)}</bdi></td>`;
  return html`<td class="number" title=${full(number(row))}>${short(number(row))}</td>`;
}
