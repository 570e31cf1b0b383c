"""A big evaluation in shards, here or on SLURM: submit.py plan|run|status|merge|cancel run_dir=...

plan takes every setting of evaluate.py; the other verbs read them from the plan.
"""

from sfam_bench.app.commands.submit import main

if __name__ == "__main__":
    main()
