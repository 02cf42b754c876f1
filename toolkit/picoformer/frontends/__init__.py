"""Front doors: files of other tools to a Graph."""
