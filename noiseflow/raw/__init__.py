"""Bayer mosaics: packing, decoding files, writing them."""
