"""Camera noise modelling: learn the noise of a camera, score it, make more of it."""
