"""Text for people: foreign text made harmless, credentials masked, numbers as people read them."""
