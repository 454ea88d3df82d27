"""How traffic moves: step by step to a new version, at once back to an old one, and never by dropping a request.

lock.py            one mover of a line's traffic at a time
traffic.py         the one door to traffic: a version with a weight has standing in the audit log
canary.py          a canary rollout: mirrored requests, then weight by weight
canary_step.py     one step of it: compare, go on or shift back
window.py          requests of both versions during a step, from the gateway's access log
envoy_counters.py  requests as Envoy counts them
signals.py         what is compared
judge.py           how: by intervals; better, no worse, worse, inconclusive
error_budget.py    how often, and with how much error each time
rollback.py        back to an earlier version, quickly, with few imports: no Prefect, no MLflow, no scipy
disk_reserve.py    disk space that is kept for a rollback
swap.py            one engine in the place of another, where memory holds only one
report_table.py    a rollout's steps and signals as a table
retire.py          drain and stop what is out of rotation

Nothing is imported here, so that a rollback does not wait for what only a rollout needs.
"""
