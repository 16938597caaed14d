"""Charts as data, drawn as SVG in the page and as files for papers."""
