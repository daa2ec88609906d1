"""Text for people: untrusted text made harmless, credentials masked, numbers formatted."""
