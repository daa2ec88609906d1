"""Fine-tune the target on a subset of a finished run, or on the full data, and evaluate it, as a Ray job. In a clone:

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/finetune_target.py s3://my-bucket/runs/my target.model=microsoft/phi-2 --budget 0.11

The options are those of `s2l finetune`: --subset, --full, --budget, --selector.
Exit codes: 0 done, 1 failed, 2 refused before anything started (the log says why), 143 stopped (`ray job stop`). The
same command resumes where an earlier job ended; complete work is skipped.
"""

import sys

from s2l_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
