"""Judging clips the way the paper does (sections 4, 5.2, 5.4, appendices B to D), and without weights."""
