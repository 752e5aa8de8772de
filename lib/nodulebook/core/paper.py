"""The numbers of the paper that the code compares with (Joshua et al. 2021), typed once."""

CLAIMED_AUC = 0.9664
"""Area under the ROC curve (abstract)."""
CLAIMED_ACCURACY = 0.9708
"""Accuracy (abstract)."""
MALIGNANT, BENIGN = 600, 630
"""Nodules by class, one of the two counts that the paper gives (section 3)."""
MALIGNANT_OF_1004, BENIGN_OF_1004 = 450, 554
"""The other count, of the reference list with 1,004 nodules."""
