"""A finished selection's subset (or the full data) → fine-tuned target and its evaluation, as a Ray job. From a clone:

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/finetune_target.py s3://my-bucket/runs/my target.model=microsoft/phi-2 --budget 0.11

Options as for `s2l finetune`: --subset, --full, --budget, --selector.
Exit codes: 0 done, 1 failed, 2 refused before anything started (the log says why), 143 stopped (`ray job stop`). The
same command goes on where an earlier job ended; what is complete is skipped.
"""

import sys

from s2l_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
