"""The figures of a report, each a function from arrays to an SVG element."""
