"""The ledger of the paper's claims and the counterparts of its figures."""
