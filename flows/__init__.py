"""The story: one file a flow, each the list of its steps."""
