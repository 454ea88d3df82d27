"""The two registered models of a line: releases, candidates, approvals and aliases in MLflow."""
