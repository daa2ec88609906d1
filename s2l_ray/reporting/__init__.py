"""The report: reads a run's artifacts and writes one HTML page and the numbers behind it. No Ray, no torch.

`facts` gathers the numbers in streaming passes, `charts` draws them (Altair), `page` puts text and pictures together.
"""
