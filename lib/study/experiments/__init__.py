"""The runs of this replication: folds, rules, trials, baselines, features."""
