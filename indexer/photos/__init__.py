"""Sets of photos with places: read, checked, split, embedded."""
