"""Facts → Altair charts, one function a picture. Every function returns a chart that a notebook shows as it is."""
