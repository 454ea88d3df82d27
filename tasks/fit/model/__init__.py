"""The model as the planner sees it: its architecture, its tensors and their shapes."""
