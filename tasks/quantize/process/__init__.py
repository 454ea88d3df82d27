"""The quantizing process: its job, its parent, its working folder and the files that it writes."""
