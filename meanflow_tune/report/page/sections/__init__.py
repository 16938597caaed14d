"""The sections of the page, one module each: a function from what is known of a study to a `Section`."""
