"""Suites: the questions, how an answer is graded, where they come from and what is wrong with them."""
