"""Scoring: one score for each item of a suite, through lm-eval or by asking an endpoint."""
