"""`s2l submit`: prepare a command, send it to a Ray cluster as a job, and follow the job."""
