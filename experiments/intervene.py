"""The intervention check of the planted set: does repainting the evidence, and it alone, change what is retrieved?"""

from sfam_bench.app.commands.intervene import main

if __name__ == "__main__":
    main()
