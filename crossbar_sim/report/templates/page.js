"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const options = {
    renderer: "svg", // marks that can be printed, copied and counted
    ast: true, // expressions are interpreted: the page's policy forbids making code of text
    config: read("config"),
    actions: { export: true, source: false, compiled: false, editor: false },
    logLevel: 1, // errors; not warnings of charts that have nothing to show yet
    tooltip: { theme: "light" },
  };
  const rows = ({ columns, rows }) =>
    rows.map((row) => Object.fromEntries(row.map((cell, i) => [columns[i], cell])));
  const draw = ([id, spec]) => {
    const place = document.getElementById(id);
    for (const name of Object.keys(spec.datasets)) spec.datasets[name] = rows(spec.datasets[name]);
    const own = { downloadFileName: id, ...(place.classList.contains("small") ? { actions: false } : {}) };
    return vegaEmbed(place, spec, { ...options, ...own }).catch((error) => {
      place.className = "chart failed";
      place.textContent = `This chart could not be drawn: ${error.message}. Its numbers are in the tables.`;
    });
  };
  Promise.all(Object.entries(read("charts")).map(draw)).then(() => {
    document.documentElement.dataset.charts = "drawn";
  });

  // A table that is wider than its place says so.
  const hint = ({ target }) => {
    target.previousElementSibling.hidden = target.scrollWidth <= target.clientWidth + 1;
  };
  const sizes = new ResizeObserver((entries) => entries.forEach(hint));
  for (const part of document.querySelectorAll(".hint + .scroll")) {
    hint({ target: part });
    sizes.observe(part);
  }

  const files = read("downloads");
  for (const button of document.querySelectorAll("button[data-file]")) {
    button.addEventListener("click", () => {
      const name = button.dataset.file;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([files[name]], { type: "text/csv" }));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }
  // Paper has nothing to unfold.
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("main details:not([open])")];
    for (const part of closed) part.open = !part.closest(".chart");
  });
  window.addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });
})();
