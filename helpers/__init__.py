"""The runnable half of the notebooks: experiments that measure, figures that draw, and what keeps both honest.

Importing this package imports nothing else; ask for the module that you need, e.g. `from helpers.experiments import start_here`.
"""
