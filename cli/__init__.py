"""The front desk: one file a group of commands. Heavy imports stand inside the commands, so `--help` is quick."""
