"use strict";
(() => {
  // The slider of the sample sheet: each panel shows its newest state up to that point of training.
  const slider = document.getElementById("rung");
  if (slider) {
    const steps = JSON.parse(slider.dataset.steps);
    const text = document.getElementById("rung-text");
    const cells = [...document.querySelectorAll("[data-states]")].map((cell) => ({
      image: cell.querySelector("img"),
      under: cell.querySelector(".under"),
      name: cell.querySelector("img").alt.replace(/:[^:]*$/, ""),
      states: JSON.parse(cell.dataset.states),
    }));
    const show = () => {
      const at = steps[Number(slider.value)];
      const words = at.toLocaleString("en-US") + " images";
      text.textContent = words;
      slider.setAttribute("aria-valuetext", words);
      for (const { image, under, name, states } of cells) {
        const state = states.filter((one) => one.at <= at).pop();
        image.style.visibility = state ? "visible" : "hidden";
        under.textContent = state ? state.text || "\u200a" : "no rung yet";
        if (state) image.src = state.src;
        image.alt = name + " after " + words + ": " + (state ? state.text || "not measured" : "no rung yet");
      }
    };
    slider.addEventListener("input", show);
    const kept = sessionStorage.getItem("rung");
    if (kept !== null && Number(kept) < steps.length - 1) {
      slider.value = kept;
      show();
    }
    slider.addEventListener("change", () => sessionStorage.setItem("rung", slider.value));
  }

  // Tables that sort by a click, or Enter, on the head of a column.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => {
          const cell = row.cells[column];
          const raw = (cell.dataset.value ?? cell.textContent).replaceAll(",", "").trim();
          const number = Number(raw);
          return raw !== "" && !Number.isNaN(number) ? number : raw;
        };
        const order = (a, b) => {
          const [left, right] = [value(a), value(b)];
          if (left === "" || right === "") return (left === "") - (right === "");
          const first = typeof left === "number" && typeof right === "number"
            ? left - right : String(left).localeCompare(String(right));
          return up ? first : -first;
        };
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort(order));
      });
    });
  }

  // While the search runs, the page is written anew; not while somebody reads with the keyboard in it.
  const seconds = Number(document.body.dataset.reload || 0);
  if (seconds) {
    setInterval(() => {
      const used = document.activeElement && document.activeElement !== document.body;
      if (!used && !document.hidden) location.reload();
    }, 1000 * seconds);
  }
})();
