"""Answers to the exercises, wrong and right ones, one module for each notebook."""
