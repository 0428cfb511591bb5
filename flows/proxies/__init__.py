"""Small runs beside the project's own: changes of params.yaml in memory, and proxies that are trained only once."""
