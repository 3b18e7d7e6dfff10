"""UniVL (Luo et al. 2020): three encoders and a decoder, with the eight losses of MELTR (CVPR 2023)."""
