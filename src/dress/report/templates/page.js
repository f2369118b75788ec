// Charts in place of their figures; a chart that fails leaves them open.
for (const figure of document.querySelectorAll("figure")) {
  const specification = JSON.parse(figure.querySelector("script").textContent);
  const options = {
    mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false,
    tooltip: {disableDefaultStyle: true},
  };
  vegaEmbed(figure.querySelector(".chart"), specification, options)
    .then(() => figure.querySelector("details").removeAttribute("open"))
    .catch(console.error);
}
