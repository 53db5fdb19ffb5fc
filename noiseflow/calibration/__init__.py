"""From frames of one's own camera to the parameters of its noise, with intervals."""
