"""The work: one room a stage, in the order that data flows through them."""
