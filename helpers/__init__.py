"""What the notebooks share and what is not their lesson.

Loading data, plots, measuring, exercise checks, the machine check, choosing
the size of a run and the settings for a quiet Ray. Every Ray call that a
notebook is about stays in the notebook.
"""
