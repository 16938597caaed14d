"""Early stopping: the rules, and the pruner that applies them to a study."""
