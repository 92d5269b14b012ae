"""Pictures in, films out and in: `uint8` arrays `height width 3` on this side, files on the other. No torch."""
