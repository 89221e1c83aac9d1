"""Makes the sentences of a comparison and of a diagnosis from values; they are for people, and no code reads them."""
