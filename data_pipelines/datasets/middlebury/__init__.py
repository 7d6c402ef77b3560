"""The Middlebury stereo sets."""
