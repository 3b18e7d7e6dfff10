"""NeuMATCH: aligns a sequence of clips with a sequence of sentences (CVPR 2018; LARS, SBN and RP: WACV 2021)."""
