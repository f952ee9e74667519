const chosen = name => document.getElementById("filter-" + name).value;
const filter = () => {
  const most = chosen("steps") === "" ? Infinity : +chosen("steps");
  for (const section of document.querySelectorAll("section[data-stream]")) {
    section.hidden = chosen("stream") !== "" && section.dataset.stream !== chosen("stream");
    for (const row of section.querySelectorAll("tr[data-state]"))
      row.hidden = +row.dataset.steps > most || (chosen("state") !== "" && row.dataset.state !== chosen("state"));
    for (const head of section.querySelectorAll("tr.group"))
      head.hidden = [...head.parentElement.nextElementSibling.rows].every(row => row.hidden);
  }
};
for (const name of ["stream", "state", "steps"]) document.getElementById("filter-" + name).addEventListener("input", filter);
