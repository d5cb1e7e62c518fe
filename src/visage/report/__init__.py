"""The report: one page that compares all runs, its tables as CSV files and its charts as PNG files.

page.py writes it. size_page.py (all models of a size) and model_page.py (one model alone) gather what templates/ lays
out; every other file holds one part of the page, by its name. Words about figures are in `visage.measures.table`, words
about pictures in captions.py.
"""
