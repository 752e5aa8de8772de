"""This replication: its experiments, tables and figures, built on `nodulebook`.

experiments  what is run: folds of profiles, trials, rules of evaluation, maps, runs again
features     classifiers on features: hand-crafted, of a network, of an autoencoder
report       tables from committed runs; `method` for cohort and networks, `works` for other works
figures      what chapters draw
readerstudy  the paper's study with readers, as an instrument
own_scans    a user's own scans: positions, scores, evaluation, released weights
cli          the commands of all these
"""

import nodulebook as nodulebook  # sets the backend before a module here imports Keras
