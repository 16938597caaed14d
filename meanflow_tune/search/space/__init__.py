"""Search spaces: loading, describing and sampling them without a search."""
