"""How the rows of a source lie and which projection it is in: `decide` settles it for every kind of source."""
