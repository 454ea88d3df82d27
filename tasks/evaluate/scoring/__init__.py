"""Scoring: one score per item of a suite, by lm-eval or by chat requests to an endpoint."""
