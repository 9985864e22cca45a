"""Trial search on real hardware, ask and tell. `search.TrialSearch` is the entry, `drive.run_trials` its loop."""
