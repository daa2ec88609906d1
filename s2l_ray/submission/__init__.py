"""`s2l submit`: the same commands as a Ray job: packed, sent, followed."""
