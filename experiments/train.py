"""Train a metric-learning model; leaves model.safetensors with its facts, the history, and how each image retrieves.

Stopped or killed, it is continued exactly by resume=true. On several GPUs: torchrun --nproc_per_node=N this file
"""

from sfam_bench.app.commands.train import main

if __name__ == "__main__":
    main()
