"""The steps that plans are made of; restore/checklist.py puts them in order."""
