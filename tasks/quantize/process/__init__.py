"""The quantizing process: its job, its parent, its staging folder and its output files."""
