"""How traffic moves: step by step to a new version, at once back to an old one, and never by dropping a request.

lock.py     one mover of a line's traffic at a time
steps.py    the way up: a shadow, then weight by weight
hold.py     the stay at one step: look, go on or take back
window.py   what both versions did during a step, from the gateway's access log
counted.py  requests as Envoy counts them, from its statistics
judge.py    the window, as intervals: better, no worse, worse, inconclusive
back.py     the way back, which is quick and imports little: no Prefect, no MLflow, no scipy
reserve.py  room on the disk that is kept for the way back
swap.py     where there is no room for two engines
table.py    what a rollout saw, for whoever is on call
retire.py   drain and stop what is out

Nothing is imported here, so that the way back does not wait for what only the way up needs.
"""
