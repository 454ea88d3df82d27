"""Suites: questions, assertions that grade answers, the import from promptfoo, and the lint."""
