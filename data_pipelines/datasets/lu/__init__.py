"""The RGB-D images of Lu et al."""
