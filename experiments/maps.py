"""Write the raw maps of one explainer, out of a run folder, as .npy files named by pair, which SavedMaps reads."""

from sfam_bench.app.commands.maps import main

if __name__ == "__main__":
    main()
