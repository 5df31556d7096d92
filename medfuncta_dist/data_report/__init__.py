"""What a packed data set holds: counts, splits, duplicates, geometry, intensities, as a page and as JSON."""
