"""Run a grid of trainings and evaluations (conf/sweep/) by Hydra's multirun, and tabulate it; again: what is missing.

sweep=gamma [launcher=basic|joblib|slurm_cpu|slurm_gpu] [out=FOLDER] [more=['pairs.count=8']]
"""

from sfam_bench.app.commands.sweep import main

if __name__ == "__main__":
    main()
