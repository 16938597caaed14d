"""Slots: worker groups of Ray Train that run one trial after another, each with its own supervisor."""
