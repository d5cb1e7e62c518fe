"""From image files to arrays: find, download, verify, draw, crop, resize."""
