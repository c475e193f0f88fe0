// A chart of ECharts, drawn on a canvas, in the colors of the page.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { full, isolate, short } from "../format.js";

// Okabe and Ito: colors that color-blind people can tell apart. Every series has a symbol of its own, too.
export const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8f7a00", "#7b61c9"];
const SYMBOLS = ["circle", "rect", "triangle", "diamond", "emptyCircle", "emptyRect", "emptyTriangle", "arrow"];
const OTHER = "#8a8a8a";
const MANY_POINTS = 60;

export const colorOf = (index, isOther) => (isOther ? OTHER : COLORS[index % COLORS.length]);

let library; // loaded once, by the first chart
function loadLibrary() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "explorer/vendor/echarts.js";
    script.onload = () => resolve(window.echarts);
    script.onerror = () => reject(new Error("the library of the charts cannot be loaded"));
    document.head.append(script);
  });
  return library;
}

/**
 * Draw series over the same labels.
 *
 * kind: "line", "column" (for times) or "bar". series: [{name, values, isOther, isFormer, color}]. label: what the chart shows, for people
 * who cannot see it.
 */
export function Chart({ kind, labels, series, label }) {
  const place = useRef();
  const [error, setError] = useState();
  const theme = useTheme();
  useEffect(() => {
    let chart;
    let isGone = false;
    const observer = new ResizeObserver(() => chart?.resize());
    loadLibrary().then((echarts) => {
      if (isGone) return;
      chart = echarts.getInstanceByDom(place.current) ?? echarts.init(place.current);
      chart.setOption(optionOf(kind, labels, series, theme), true);
      observer.observe(place.current);
    }, setError);
    return () => {
      isGone = true;
      observer.disconnect();
    };
  }, [kind, theme, JSON.stringify([labels, series])]);
  useEffect(() => () => window.echarts?.getInstanceByDom(place.current)?.dispose(), []);
  if (error) return html`<p role="alert">${error.message}</p>`;
  return html`<div class="chart" role="img" aria-label=${label} ref=${place}></div>`;
}

/** Return the colors of the page, again when it becomes light or dark. */
function useTheme() {
  const [theme, setTheme] = useState(readTheme);
  useEffect(() => {
    const read = () => setTheme(readTheme());
    const system = matchMedia("(prefers-color-scheme: dark)");
    const observer = new MutationObserver(read);
    observer.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    system.addEventListener("change", read);
    return () => {
      observer.disconnect();
      system.removeEventListener("change", read);
    };
  }, []);
  return theme;
}

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  return ["--pico-muted-color", "--pico-muted-border-color"]
    .map((name) => style.getPropertyValue(name).trim())
    .join("|");
}

function optionOf(kind, labels, series, theme) {
  const [text, line] = theme.split("|");
  const isUpright = kind !== "bar";
  const names = { type: "category", data: labels, axisLine: { lineStyle: { color: line } }, axisTick: { show: false } };
  const numbers = { type: "value", splitLine: { lineStyle: { color: line } } };
  const nameLabel = {
    color: text,
    hideOverlap: true,
    width: 150,
    overflow: "truncate",
    formatter: (name) => isolate(name.replace(/( \d\d:\d\d):00/, "$1")),
  };
  return {
    animation: false,
    aria: { enabled: false },
    grid: { left: 8, right: 16, top: 16, bottom: 8, containLabel: true },
    xAxis: isUpright
      ? { ...names, axisLabel: { ...nameLabel, alignMinLabel: "left", alignMaxLabel: "right" } }
      : { ...numbers, axisLabel: { color: text, formatter: short, hideOverlap: true } },
    yAxis: isUpright
      ? { ...numbers, axisLabel: { color: text, formatter: short } }
      : { ...names, axisLabel: nameLabel, inverse: true },
    tooltip: {
      trigger: "axis",
      confine: true,
      axisPointer: { type: kind === "line" ? "line" : "shadow" },
      formatter: describePoint,
    },
    series: series.map((one, index) => seriesOf(one, index, kind === "line", labels.length)),
  };
}

function seriesOf({ name, values, isOther, isFormer, color }, index, isLine, points) {
  const shade = color ?? colorOf(index, isOther);
  return {
    name,
    type: isLine ? "line" : "bar",
    data: values,
    color: shade,
    symbol: SYMBOLS[index % SYMBOLS.length],
    symbolSize: 7,
    showSymbol: points <= MANY_POINTS && !isFormer,
    lineStyle: { width: 2, type: isFormer ? "dashed" : "solid", opacity: isFormer ? 0.6 : 1 },
    itemStyle: isFormer ? { opacity: 0.45 } : {},
    barMaxWidth: 22,
  };
}

/** Return the elements of a tooltip. They are built here, so that texts of events stay texts. */
function describePoint(points) {
  const box = document.createElement("div");
  box.className = "tooltip";
  box.append(isolate(points[0].name));
  for (const point of points) {
    const row = document.createElement("div");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = point.color;
    const value = document.createElement("b");
    value.textContent = full(point.value) || "–";
    const name = document.createElement("bdi");
    name.textContent = point.seriesName;
    row.append(swatch, name, " ", value);
    box.append(row);
  }
  return box;
}
