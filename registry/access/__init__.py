"""Who may do what in MLflow: accounts, roles and grants."""
