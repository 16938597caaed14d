"""The only package above all others: joins study, cluster, tracking and reports."""
