for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => { const cell = row.cells[index]; return cell.dataset.value === undefined ? null : +cell.dataset.value; };
      const compare = (a, b) => {
        const x = value(a), y = value(b);
        if (x === null && y === null) return a.cells[index].textContent.localeCompare(b.cells[index].textContent) * (down ? -1 : 1);
        if (x === null || y === null) return x === null ? 1 : -1;
        return down ? y - x : x - y;
      };
      for (const body of table.tBodies) body.append(...[...body.rows].sort(compare));
    });
  });
}
