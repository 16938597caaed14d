"""report.html: a study in one self-contained file that opens without a network."""
