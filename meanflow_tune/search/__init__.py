"""The search: its only truth (an Optuna study), who may write it, and what it asks for next."""
