"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const figures = JSON.parse(byId("figures").textContent);
  const plots = [...document.querySelectorAll("[data-figure]")];
  const touch = matchMedia("(pointer: coarse)").matches;
  // Pixels: about a sheet of A4 or Letter without margins; the real width is not known.
  const SHEET = 700;
  let printing = false;
  const config = { displayModeBar: false, scrollZoom: false };

  // Colours are names, "@p2" or, with an opacity, "@p2:22": replace them by the colours of the current theme.
  const colour = (name, style) => {
    const [slot, shade = ""] = name.slice(1).split(":");
    return style.getPropertyValue("--" + slot).trim() + shade;
  };
  const painted = (part, style) => {
    if (Array.isArray(part)) return part.map((item) => painted(item, style));
    if (part === null || typeof part !== "object") return part;
    return Object.fromEntries(Object.entries(part).map(([key, value]) => [
      key,
      /color$/.test(key) && typeof value === "string" && value.startsWith("@")
        ? colour(value, style)
        : painted(value, style),
    ]));
  };

  const draw = () => {
    const style = getComputedStyle(root);
    const family = getComputedStyle(document.body).fontFamily;
    for (const plot of plots) {
      const figure = painted(figures[plot.dataset.figure], style);
      figure.layout.font.family = family;
      figure.layout.dragmode = touch ? false : "zoom";
      figure.layout.width = widthOf(plot);
      const hidden = namesOf(plot).filter((button) => button.ariaPressed === "false").map((button) => button.dataset.group);
      for (const trace of figure.data) trace.visible = !hidden.includes(trace.legendgroup);
      const now = plot.layout;
      if (now && now.yaxis) figure.layout.yaxis.type = now.yaxis.type;
      else if (figure.layout.yaxis.type === undefined) figure.layout.yaxis.type = "linear";
      try { Plotly.react(plot, figure.data, figure.layout, config); }
      catch (error) { plot.textContent = "This plot could not be drawn: " + error.message; }
      scalable(plot, printing);
    }
  };
  const widthOf = (plot) => (!printing && plot.clientWidth) || SHEET;
  const namesOf = (plot) => [...plot.parentElement.querySelectorAll(".names button")];
  // In print the style sets the width; with a viewBox the drawing scales with it.
  const scalable = (plot, on) => {
    const whole = plot.querySelector(".svg-container");
    if (!whole) return;
    const { width, height } = plot.layout;
    whole.style.aspectRatio = on ? `${width} / ${height}` : "";
    for (const svg of plot.querySelectorAll(".main-svg")) {
      if (on) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      else svg.removeAttribute("viewBox");
    }
  };

  // Theme: the reader's system, unless #light, #dark or the button says otherwise.
  const asked = /^#(light|dark)$/.exec(location.hash);
  const remember = (theme) => { try { localStorage.setItem("halfstep-theme", theme); } catch { /* private mode */ } };
  const recall = () => { try { return localStorage.getItem("halfstep-theme"); } catch { return null; } };
  const themed = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    byId("theme").textContent = "Theme: " + (root.dataset.theme || "auto");
    draw();
  };
  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[root.dataset.theme || "auto"];
    remember(next);
    themed(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let before = null;
  const printed = (on) => {
    if (on === printing) return;
    printing = on;
    if (on) before = root.dataset.theme || "auto";
    themed(on ? "light" : before);
  };
  addEventListener("beforeprint", () => printed(true));
  addEventListener("afterprint", () => printed(false));
  matchMedia("print").addEventListener("change", (media) => printed(media.matches));
  themed(asked ? asked[1] : recall());

  const resized = new ResizeObserver((entries) => {
    for (const { target: plot } of entries) {
      if (plot.layout && plot.layout.width !== widthOf(plot)) Plotly.relayout(plot, { width: widthOf(plot) });
    }
  });
  for (const plot of plots) {
    resized.observe(plot);
    for (const button of namesOf(plot)) {
      button.addEventListener("click", () => {
        const shown = button.ariaPressed === "false";
        button.ariaPressed = String(shown);
        const group = plot.data.flatMap((trace, n) => (trace.legendgroup === button.dataset.group ? [n] : []));
        Plotly.restyle(plot, { visible: shown }, group);
      });
    }
  }

  for (const group of document.querySelectorAll(".switch")) {
    const plot = document.querySelector(`[data-figure="${group.dataset.for}"]`);
    group.hidden = false;
    group.addEventListener("click", (event) => {
      const type = event.target.dataset.type;
      if (!type) return;
      for (const button of group.children) button.setAttribute("aria-pressed", String(button === event.target));
      Plotly.relayout(plot, { "yaxis.type": type, "yaxis.autorange": true });
    });
  }

  byId("download").hidden = false;
  byId("download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([byId("comparison").textContent], { type: "application/json" }));
    link.download = "comparison.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  for (const button of document.querySelectorAll(".copy")) {
    const code = button.parentElement.querySelector("code");
    button.hidden = false;
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(code); button.textContent = "Selected"; }
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
})();
