"""Support for tests of this package, and of packages that build on it; requires the extra `[test]`.

* `tiny`: models, corpora and runs that train in seconds; `quiet`: a run's progress as text.
* `local_worker`: a target worker's context without Ray, which can die at a chosen step.
* `ray_head`, `ray_nodes`, `ray_autoscaler`: Ray clusters of real processes on this machine, with their own ports and
  folders; `processes`: Ray Train's workers started by this process.
* `s3`: a real S3 server (moto's) as pytest fixtures: `pytest_plugins = ("s2l_ray.testing.s3",)`.
* `faults`: commands that are killed at chosen or random moments, and comparisons of the results.
"""
