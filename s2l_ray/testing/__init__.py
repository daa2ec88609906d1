"""What tests of this package, and of what is built upon it, share; needs the extra `[test]`.

* `tiny`: models, corpora and runs that train in seconds; `quiet`: a run's progress as text to read.
* `local_worker`: a target worker's context without Ray, which can die at a chosen step.
* `ray_head`, `ray_nodes`, `ray_autoscaler`: Ray clusters of real processes on this machine, with ports and folders of
  their own; `processes`: Ray Train's workers below this process.
* `s3`: a real S3 server (moto's) as pytest fixtures: `pytest_plugins = ("s2l_ray.testing.s3",)`.
* `faults`: commands that are killed at chosen or random moments, and what must be the same afterwards.
"""
