"""torch → engine formats, one file a format, by the ecosystem's own exporters."""
